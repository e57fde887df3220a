"""What a recipe is: a paper as a value that names its parts."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, final

import ddsdk as dd
from ddsdk.errors import require_count, require_rng

if TYPE_CHECKING:
    import torch

    from ddsdk.students.fresh import MakeStudent

__all__ = ["IterativeRecipe", "Recipe"]


class Recipe(Protocol):
    """Makes a distilled set of real data: a frozen dataclass with the paper's defaults."""

    ipc: int

    def __call__(self, real: dd.RealData, *, make_student: MakeStudent, rng: torch.Generator) -> dd.Distilled:
        """Distil `real`."""
        ...


@dataclass(frozen=True, kw_only=True)
class IterativeRecipe(ABC):
    """A recipe that runs the loop of `ddsdk.Distillation` over a plan.

    Attributes:
        name: What the command line and tables call the method.
        ipc: Images per class.
    """

    name: ClassVar[str]
    ipc: int = 10

    def __post_init__(self) -> None:
        require_count("ipc", self.ipc)
        self.check()

    @abstractmethod
    def check(self) -> None:
        """Raise ValueError for a parameter that no data could make right."""

    @abstractmethod
    def plan(self, real: dd.RealData, *, make_student: MakeStudent, rng: torch.Generator) -> dd.Plan[Any]:
        """Return the parts, ready to run; `dataclasses.replace` swaps one."""

    @abstractmethod
    def evaluation(self, real: dd.RealData) -> dd.Evaluation:
        """Return how the paper trains on a set of `real`."""

    @final
    def distillation(
        self, real: dd.RealData, *, make_student: MakeStudent, rng: torch.Generator
    ) -> dd.Distillation[Any]:
        """Return the loop over this recipe's plan."""
        require_rng(rng)
        plan = self.plan(real, make_student=make_student, rng=dd.derive(rng, "plan"))
        return dd.Distillation(plan, real, rng=dd.derive(rng, "steps"))

    @final
    def __call__(self, real: dd.RealData, *, make_student: MakeStudent, rng: torch.Generator) -> dd.Distilled:
        """Run the whole loop and return the set.

        Args:
            real: What to distil; its device is where everything runs.
            make_student: Builds a network from a generator, see `ddsdk.network_factory`.
            rng: Root of every random number.

        Raises:
            ValueError: If a parameter does not fit the data.
            DivergedError: If the loss stays non-finite; the last finite set is the error's `syn`.
        """
        began = time.perf_counter()
        distillation = self.distillation(real, make_student=make_student, rng=rng)
        for _ in distillation:
            pass
        seconds = time.perf_counter() - began
        return dd.assemble(
            self,
            distillation.result,
            real,
            evaluation=self.evaluation(real),
            rng=rng,
            seconds=seconds,
            make_student=make_student,
            run=distillation.record(),
        )
