"""Base classes of recipes, and the choice of their student network."""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import signature
from typing import TYPE_CHECKING, Any, ClassVar, final

from ddsdk import data, foundation, networks, objectives, running, training
from ddsdk.foundation import PositiveFloat, PositiveInt, check_numbers, require
from ddsdk.recipes.parts import augmentation_for
from ddsdk.running import DirectMethod, IterativeMethod, Method

if TYPE_CHECKING:
    from ddsdk.networks import NetworkFactory
    from ddsdk.recipes.signature import Generator, MakeStudent, Plan, RealData


@dataclass(frozen=True, kw_only=True)
class Recipe(Method["RealData"], ABC):
    """A distillation method of a paper, as a frozen dataclass with the paper's hyperparameters.

    A recipe distils images, or other data that is stored in the shape of images. `ddsdk.distill` runs it.

    Attributes:
        ipc: Images per class in the distilled set, at least 1.
        student_options: Options in which the default student differs from the network of the evaluation protocol.

    Examples:
        >>> import ddsdk
        >>> recipe = ddsdk.RECIPES["dm"](ipc=10)
        >>> recipe.protocol(ddsdk.load("digits")).network
        'convnet'
    """

    student_options: ClassVar[Mapping[str, Any]] = {}
    ipc: PositiveInt = 10

    def __post_init__(self) -> None:
        check_numbers(self)
        self.check()

    def check(self) -> None:
        """Raise ValueError for parameters that no data set allows; the types of the fields are checked already."""

    @final
    def source(self, real: RealData) -> RealData:
        """Return the real data, from which each step draws its batches."""
        return real

    @final
    def described(self, real: RealData) -> RealData:
        """Return the real data, whose description the artefact records."""
        return real

    @final
    def student(self, real: RealData) -> NetworkFactory:
        """Return the factory of the student network that the recipe's evaluation protocol names."""
        name, options = student_network(self, real)
        return networks.network_factory(name, real.image_shape, real.num_classes, **options)


@dataclass(frozen=True, kw_only=True)
class DirectRecipe(Recipe, DirectMethod["RealData"], ABC):
    """A recipe without optimisation steps: a selection of real images, or a closed-form solution."""


@dataclass(frozen=True, kw_only=True)
class IterativeRecipe(Recipe, IterativeMethod["RealData"], ABC):
    """A recipe that optimises the set step by step, in the loop of `ddsdk.Distillation`.

    Attributes:
        anneal: Whether all learning rates also decay to zero along half a cosine over the run. This helps where a time
            budget ends a run long before the paper's number of steps.
        average: Decay, strictly between 0 and 1, of an exponential moving average of images and labels; the average is
            then the result. Learned learning rates are the last ones. None for the default of the recipe, which is no
            average for most recipes.
        clip_norm: Largest gradient norm of a step; longer gradients are scaled down to it. None for the default of the
            recipe, which is no bound for most recipes.
        skip_above: Loss above which a step changes nothing and is only counted. None for the default of the recipe,
            which is no bound for most recipes.
        classes_per_step: Largest number of classes in one step, for data with many classes; None for all. A pass over
            the classes is n = ceil(classes / classes_per_step) steps over random groups, so that a run needs n times as
            many steps (`ddsdk.objectives.class_groups`). Only for recipes whose loss is a sum over classes.
        sums_over_classes: Whether the loss of the recipe is a sum over classes.
        training_fields: Names of the fields that determine the training of experts, pools and teachers: real images of
            each class, number of networks and epochs; empty for recipes without such networks.

    Examples:
        >>> import dataclasses, ddsdk
        >>> real, rng = ddsdk.load("digits"), ddsdk.generator(0)
        >>> make_student = ddsdk.network_factory("convnet", real.image_shape, 10, width=4)
        >>> plan = ddsdk.DM(ipc=1).plan(real, make_student=make_student, rng=rng)
        >>> dataclasses.replace(plan, steps=5).steps
        5
    """

    sums_over_classes: ClassVar[bool] = False
    training_fields: ClassVar[tuple[str, ...]] = ()
    anneal: bool = False
    average: float | None = None
    clip_norm: PositiveFloat | None = None
    skip_above: PositiveFloat | None = None
    classes_per_step: PositiveInt | None = None

    def __post_init__(self) -> None:
        if self.average is not None:
            require(0 < self.average < 1, "average", "lie strictly between 0 and 1", self.average)
        super().__post_init__()
        rule = f"be left out for {self.name}, whose loss is no sum over classes"
        require(
            self.sums_over_classes or self.classes_per_step is None, "classes_per_step", rule, self.classes_per_step
        )

    @abstractmethod
    def parts(self, real: RealData, *, make_student: MakeStudent, rng: Generator) -> Plan[Any]:
        """Return the paper's plan, without the options that all recipes share."""

    @final
    def plan(self, real: RealData, *, make_student: MakeStudent, rng: Generator) -> Plan[Any]:
        """Return the plan with the shared options applied; `dataclasses.replace` exchanges one of its parts."""
        plan = self.parts(real, make_student=make_student, rng=rng)
        options = ("average", "clip_norm", "skip_above")
        overrides: dict[str, Any] = {n: getattr(self, n) for n in options if getattr(self, n) is not None}
        if self.anneal:
            overrides["rate_at"] = _annealed(plan.rate_at, plan.steps)
        if self.classes_per_step is not None:
            key = foundation.derive(rng, "classes per step")
            at = objectives.class_groups(plan.objective_at, real.num_classes, self.classes_per_step, key)
            overrides["objective"] = running.ObjectiveSchedule(at)
        return dataclasses.replace(plan, **overrides)


@dataclass(frozen=True, kw_only=True)
class AugmentedRecipe(IterativeRecipe, ABC):
    """A recipe whose matching and evaluation use the differentiable augmentation of DSA.

    Attributes:
        augmentation: DSA operations joined by "_", for matching, student training and evaluation; empty for none. None
            for the published operations that suit the data: flip only where the data is mirror-safe.
    """

    augmentation: str | None = None

    @final
    def siamese(self, real: RealData) -> data.Augmentation:
        """Return the augmentation of real images, synthetic images and student training."""
        return data.Augmentation(augmentation_for(real, self.augmentation))

    @final
    def protocol(self, real: RealData) -> training.TrainingProtocol:
        """Return the evaluation protocol of DC, DSA and DM, with the recipe's augmentation."""
        return training.TrainingProtocol.published(augmentation_for(real, self.augmentation))


def student_network(
    recipe: Recipe, real: RealData, network: str = "", options: Mapping[str, Any] | None = None
) -> tuple[str, dict[str, Any]]:
    """Return the name of the student network of a recipe, and the options of its builder.

    Args:
        recipe: Recipe or baseline whose evaluation protocol names the default network.
        real: Real data to distil.
        network: Key of `ddsdk.NETWORKS`. Empty for the network of the protocol with its options, or for a ConvNet where
            the protocol evaluates a kernel machine.
        options: Further builder options, which override those of the protocol. The protocol's network ignores options
            that its builder does not have. None for no further options.

    Examples:
        >>> import ddsdk
        >>> from ddsdk.recipes import student_network
        >>> name, options = student_network(ddsdk.DM(), ddsdk.load("digits"), options={"width": 8})
        >>> name, options["width"]
        ('convnet', 8)
    """
    requested = dict(options or {})
    if network:
        return network, requested
    protocol = recipe.protocol(real)
    network, defaults = (
        (protocol.network, {**protocol.network_options, **recipe.student_options})
        if protocol.learner == "network"
        else ("convnet", {})
    )
    accepted = signature(networks.NETWORKS[network]).parameters
    return network, {**defaults, **{name: value for name, value in requested.items() if name in accepted}}


def _annealed(schedule: Callable[[int], float] | None, steps: int) -> Callable[[int], float]:
    def factor(step: int) -> float:
        return (1.0 if schedule is None else schedule(step)) * (1 + math.cos(math.pi * min(step / steps, 1))) / 2

    return factor
