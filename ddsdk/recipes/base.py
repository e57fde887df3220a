"""Recipes: papers as values that name their parts."""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import signature
from typing import TYPE_CHECKING, Any, final

from ddsdk import data, networks, training
from ddsdk.foundation import PositiveFloat, PositiveInt, check_numbers, require
from ddsdk.recipes.parts import augmentation_for
from ddsdk.running import DirectMethod, IterativeMethod, Method

if TYPE_CHECKING:
    from ddsdk.networks import NetworkFactory
    from ddsdk.recipes.signature import Generator, MakeStudent, Plan, RealData


@dataclass(frozen=True, kw_only=True)
class Recipe(Method["RealData"], ABC):
    """A method for images and data that are stored like them: a frozen dataclass with the defaults of its paper.

    `ddsdk.distill` runs it.

    Attributes:
        ipc: Images per class.
    """

    ipc: PositiveInt = 10

    def __post_init__(self) -> None:
        check_numbers(self)
        self.check()

    def check(self) -> None:
        """Raise ValueError for parameters that no data could make right, beyond the rules of their types."""

    @final
    def source(self, real: RealData) -> RealData:
        """Return the data itself."""
        return real

    @final
    def described(self, real: RealData) -> RealData:
        """Return the data itself."""
        return real

    @final
    def student(self, real: RealData) -> NetworkFactory:
        """Return the factory of the network of the recipe's own protocol."""
        name, options = student_network(self, real)
        return networks.network_factory(name, real.image_shape, real.num_classes, **options)


@dataclass(frozen=True, kw_only=True)
class DirectRecipe(Recipe, DirectMethod["RealData"], ABC):
    """A recipe without steps: selection of real images, or a solution in closed form."""


@dataclass(frozen=True, kw_only=True)
class IterativeRecipe(Recipe, IterativeMethod["RealData"], ABC):
    """A recipe that runs the loop of `ddsdk.Distillation` over a plan.

    Attributes:
        anneal: Whether learning rates fall to zero along half a cosine over the run, whatever else they do. It pays
            where a budget ends a run long before the paper's does.
        average: Decay of a moving average of everything the set stores, which is then the result. None takes the
            recipe's own: none, mostly.
        clip_norm: Norm to which the gradient of a step is scaled down. None takes the recipe's own: no bound.
        skip_above: Loss above which a step changes nothing and is counted. None takes the recipe's own.
    """

    anneal: bool = False
    average: float | None = None
    clip_norm: PositiveFloat | None = None
    skip_above: PositiveFloat | None = None

    def __post_init__(self) -> None:
        if self.average is not None:
            require(0 < self.average < 1, "average", "lie strictly between 0 and 1", self.average)
        super().__post_init__()

    @abstractmethod
    def parts(self, real: RealData, *, make_student: MakeStudent, rng: Generator) -> Plan[Any]:
        """Return the paper's parts, without the options that all recipes share."""

    @final
    def plan(self, real: RealData, *, make_student: MakeStudent, rng: Generator) -> Plan[Any]:
        """Return the parts, ready to run; `dataclasses.replace` swaps one."""
        plan = self.parts(real, make_student=make_student, rng=rng)
        options = ("average", "clip_norm", "skip_above")
        given: dict[str, Any] = {n: getattr(self, n) for n in options if getattr(self, n) is not None}
        if self.anneal:
            given["rate_at"] = _annealed(plan.rate_at, plan.steps)
        return dataclasses.replace(plan, **given)


@dataclass(frozen=True, kw_only=True)
class AugmentedRecipe(IterativeRecipe, ABC):
    """A recipe that distils and is judged under the differentiable augmentation of DSA.

    Attributes:
        augmentation: DSA operations joined by "_", for real and synthetic images, students and evaluation; empty for
            none. None takes the published ones that suit the data: without flip unless the data is mirror-safe.
    """

    augmentation: str | None = None

    @final
    def siamese(self, real: RealData) -> data.Augmentation:
        """Return the augmentation of both sides and of the students."""
        return data.Augmentation(augmentation_for(real, self.augmentation))

    @final
    def evaluation(self, real: RealData) -> training.Evaluation:
        """Return the published protocol of the field, with the recipe's augmentation."""
        return training.Evaluation.published(augmentation_for(real, self.augmentation))


def student_network(
    recipe: Recipe, real: RealData, network: str = "", options: Mapping[str, Any] | None = None
) -> tuple[str, dict[str, Any]]:
    """Return the name of a recipe's student network, and options of its builder.

    Args:
        recipe: Recipe or baseline.
        real: Data that is distilled.
        network: Key of `ddsdk.NETWORKS`; empty for the network that the recipe's protocol names, with its options, and
            a ConvNet where that is a kernel.
        options: Options of the builder above those; the network of a protocol leaves out those that it does not take.
    """
    given = dict(options or {})
    if network:
        return network, given
    own = recipe.evaluation(real)
    network, usual = (own.network, own.network_options) if own.learner == "network" else ("convnet", {})
    known = signature(networks.NETWORKS[network]).parameters
    return network, {**usual, **{name: value for name, value in given.items() if name in known}}


def _annealed(own: Callable[[int], float] | None, steps: int) -> Callable[[int], float]:
    def factor(step: int) -> float:
        return (1.0 if own is None else own(step)) * (1 + math.cos(math.pi * min(step / steps, 1))) / 2

    return factor
