"""The interface of methods: with steps, or without."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar, final

from ddsdk.foundation import require

if TYPE_CHECKING:
    import torch

    from ddsdk.artefact import Certificate, Described
    from ddsdk.data import Source
    from ddsdk.running.loop import Plan
    from ddsdk.students import MakeStudent, TrainedRuns
    from ddsdk.synthetic import SyntheticSet
    from ddsdk.training import Evaluation


R = TypeVar("R")


class Method(ABC, Generic[R]):
    """A method that makes a distilled set of real data of type R, as a frozen dataclass of its parameters.

    Attributes:
        name: Name on the command line and in tables.
        length: Field that holds the number of outer steps, or of students with a fixed number of steps each.
        retries: Number of times that a step with values that are not finite may be tried again at a smaller rate.
    """

    name: ClassVar[str]
    length: ClassVar[str] = "steps"
    retries: ClassVar[int] = 5

    @abstractmethod
    def evaluation(self, real: R) -> Evaluation:
        """Return the protocol of training on a set of `real`."""

    @abstractmethod
    def source(self, real: R) -> Source:
        """Return the batches of `real` that a step draws."""

    @abstractmethod
    def described(self, real: R) -> Described:
        """Return what the artefact records of `real`."""

    def student(self, real: R) -> MakeStudent | None:  # noqa: ARG002
        """Return the factory of the student networks where the caller names none; None for a method without networks.

        A method with networks overrides this; one without refuses a factory of the caller.
        """
        return None

    @classmethod
    @final
    def uses_networks(cls) -> bool:
        """Return whether the method has student networks."""
        return cls.student is not Method.student

    def refuse(self, real: R, *, start: object, validation: object, transform: object) -> None:
        """Raise an error for data or options that the method does not allow, before any work; the default allows all.

        Warm start, held-out score and change of the plan are those of `distill`.
        """

    def runs(self, real: R, *, make_student: MakeStudent, rng: torch.Generator) -> TrainedRuns | None:  # noqa: ARG002
        """Return the networks that must be trained on `real` first: experts, pools or teachers; None for none.

        Their seed derives from the generator that `IterativeMethod.plan` gets too.
        """
        return None

    @classmethod
    @final
    def trains_networks(cls) -> bool:
        """Return whether the method needs networks that are trained on the real data first."""
        return cls.runs is not Method.runs

    def stored(self, syn: SyntheticSet, real: R) -> tuple[SyntheticSet, dict[str, Any]]:  # noqa: ARG002
        """Return the set that the artefact stores, and further fields of `ddsdk.Distilled`, such as edges.

        Entries of a field ``provenance`` take the place of those of the run; the others stay.
        """
        return syn, {}

    def certificate(self, real: R) -> Certificate | None:  # noqa: ARG002
        """Return the certificate of a private release; None without one."""
        return None


class IterativeMethod(Method[R]):
    """A method that runs the loop of `ddsdk.Distillation` over a plan.

    Attributes:
        repeatable: Whether a plan may be built twice and a step taken twice; false where either is a paid release.
    """

    repeatable: ClassVar[bool] = True

    @abstractmethod
    def plan(self, real: R, *, make_student: MakeStudent, rng: torch.Generator) -> Plan[Any]:
        """Return the plan; `dataclasses.replace` swaps one part of it."""

    def admit(self, plan: Plan[Any]) -> None:
        """Raise an error for a changed plan that the method does not allow; the default allows all."""


class DirectMethod(Method[R]):
    """A method without steps: selection, or a solution in closed form."""

    def refuse(self, real: R, *, start: object, validation: object, transform: object) -> None:  # noqa: ARG002
        """Refuse every option of a plan."""
        for option, value in {"start": start, "validation": validation, "transform": transform}.items():
            require(value is None, option, f"be left out for {self.name}, which has no steps", value)

    @abstractmethod
    def make(self, real: R, *, make_student: MakeStudent, rng: torch.Generator) -> SyntheticSet:
        """Return the set."""
