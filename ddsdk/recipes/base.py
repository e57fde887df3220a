"""What a recipe is: a paper as a value that names its parts."""

from __future__ import annotations

import dataclasses
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, final, runtime_checkable

import ddsdk as dd
from ddsdk.errors import require, require_count, require_rate, require_rng

if TYPE_CHECKING:
    import torch

    from ddsdk.students.fresh import MakeStudent

__all__ = ["IterativeRecipe", "NeedsRuns", "Recipe", "runs_record", "trained_runs"]


class Recipe(Protocol):
    """Makes a distilled set of real data: a frozen dataclass with the paper's defaults."""

    ipc: int

    def __call__(self, real: dd.RealData, *, make_student: MakeStudent, rng: torch.Generator) -> dd.Distilled:
        """Distil `real`."""
        ...


@runtime_checkable
class NeedsRuns(Protocol):
    """A recipe that needs networks that were trained on the real data: experts, pools or teachers."""

    def runs(self, real: dd.RealData, *, make_student: MakeStudent, rng: torch.Generator) -> dd.TrainedRuns:
        """Return these networks; none is trained before it is needed.

        Args:
            real: What they train on.
            make_student: Builds a network.
            rng: ``derive(root, "plan")``, which `plan` gets; the seed of the networks derives from it.
        """
        ...


def trained_runs(
    recipe: object, real: dd.RealData, *, make_student: MakeStudent, rng: torch.Generator
) -> dd.TrainedRuns | None:
    """Return the trained networks that a recipe will use under the root generator `rng`; None if it uses none."""
    require_rng(rng)
    if not isinstance(recipe, NeedsRuns):
        return None
    return recipe.runs(real, make_student=make_student, rng=dd.derive(rng, "plan"))


def runs_record(runs: dd.TrainedRuns | None) -> dict[str, dict[str, float]]:
    """Return what the trained networks of a set were and took, for its provenance."""
    return {} if runs is None else {"runs": {"count": len(runs), "seconds": round(runs.seconds, 3)}}


@dataclass(frozen=True, kw_only=True)
class IterativeRecipe(ABC):
    """A recipe that runs the loop of `ddsdk.Distillation` over a plan.

    Attributes:
        name: What the command line and tables call the method.
        ipc: Images per class.
        anneal: Whether learning rates fall to zero along half a cosine over the run, whatever else they do. It pays
            where a budget ends a run long before the paper's does.
        average: Decay of a moving average of everything the set stores, which is then the result. None takes the
            recipe's own: none, mostly.
        clip_norm: The gradient of a step is scaled down to this norm. None takes the recipe's own: no bound.
        skip_above: A step whose loss exceeds this changes nothing and is counted. None takes the recipe's own.
    """

    name: ClassVar[str]
    ipc: int = 10
    anneal: bool = False
    average: float | None = None
    clip_norm: float | None = None
    skip_above: float | None = None

    def __post_init__(self) -> None:
        require_count("ipc", self.ipc)
        if self.average is not None:
            require(0 < self.average < 1, "average", "lie strictly between 0 and 1", self.average)
        for name in ("clip_norm", "skip_above"):
            if getattr(self, name) is not None:
                require_rate(name, getattr(self, name))
        self.check()

    @abstractmethod
    def check(self) -> None:
        """Raise ValueError for a parameter that no data could make right."""

    @abstractmethod
    def parts(self, real: dd.RealData, *, make_student: MakeStudent, rng: torch.Generator) -> dd.Plan[Any]:
        """Return the paper's parts, without what every recipe can be asked for."""

    @abstractmethod
    def evaluation(self, real: dd.RealData) -> dd.Evaluation:
        """Return how the paper trains on a set of `real`."""

    @final
    def plan(self, real: dd.RealData, *, make_student: MakeStudent, rng: torch.Generator) -> dd.Plan[Any]:
        """Return the parts, ready to run; `dataclasses.replace` swaps one."""
        plan = self.parts(real, make_student=make_student, rng=rng)
        asked = ("average", "clip_norm", "skip_above")
        given: dict[str, Any] = {n: getattr(self, n) for n in asked if getattr(self, n) is not None}
        if self.anneal:
            given["rate_at"] = _annealed(plan.rate_at, plan.steps)
        return dataclasses.replace(plan, **given)

    @final
    def distillation(
        self,
        real: dd.RealData,
        *,
        make_student: MakeStudent,
        rng: torch.Generator,
        validation: dd.Validation | None = None,
    ) -> dd.Distillation[Any]:
        """Return the loop over this recipe's plan; with `validation`, its result is the best set on held-out data."""
        require_rng(rng)
        plan = self.plan(real, make_student=make_student, rng=dd.derive(rng, "plan"))
        if validation is not None:
            validate = validation.under(self.evaluation(real), rng=dd.derive(rng, "validation"))
            plan = dataclasses.replace(plan, validate=validate, validate_every=validation.every)
        return dd.Distillation(plan, real, rng=dd.derive(rng, "steps"))

    @final
    def __call__(
        self,
        real: dd.RealData,
        *,
        make_student: MakeStudent,
        rng: torch.Generator,
        validation: dd.Validation | None = None,
    ) -> dd.Distilled:
        """Run the whole loop and return the set.

        Args:
            real: What to distil; its device is where everything runs.
            make_student: Builds a network from a generator, see `ddsdk.network_factory`.
            rng: Root of every random number.
            validation: Held-out images that choose the best of the run's sets, see `RealData.split`; None takes the
                set of the last step.

        Raises:
            ValueError: If a parameter does not fit the data.
            DivergedError: If the loss stays non-finite; the last finite set is the error's `syn`.
        """
        runs = trained_runs(self, real, make_student=make_student, rng=rng)
        for _ in [] if runs is None else runs.make():
            pass
        began = time.perf_counter()
        distillation = self.distillation(real, make_student=make_student, rng=rng, validation=validation)
        for _ in distillation:
            pass
        # Networks that an earlier run has left in the cache count as if they had been trained now.
        seconds = time.perf_counter() - began + (0.0 if runs is None else runs.seconds)
        return dd.assemble(
            self,
            distillation.result,
            real,
            evaluation=self.evaluation(real),
            rng=rng,
            seconds=seconds,
            make_student=make_student,
            run={**distillation.record(), **runs_record(runs)},
        )


def _annealed(own: Callable[[int], float] | None, steps: int) -> Callable[[int], float]:
    def factor(step: int) -> float:
        return (1.0 if own is None else own(step)) * (1 + math.cos(math.pi * min(step / steps, 1))) / 2

    return factor
