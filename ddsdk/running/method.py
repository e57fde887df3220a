"""Base classes of the methods: with outer steps, or without."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar, final

from ddsdk.foundation import require

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from ddsdk.artefact import Certificate, DataDescription
    from ddsdk.data import Source
    from ddsdk.running.plan import Plan
    from ddsdk.students import MakeStudent, TrainedRuns
    from ddsdk.synthetic import SyntheticSet
    from ddsdk.training import TrainingProtocol


R = TypeVar("R")


class Method(ABC, Generic[R]):
    """A method of dataset distillation: a frozen dataclass of its hyperparameters, for real data of type R.

    Attributes:
        name: Name on the command line and in tables.
        length: Name of the field with the number of outer steps, or with the number of students where each student
            serves a fixed number of steps.
        retries: Largest number of learning-rate reductions after steps with non-finite values.
        needs: Needs of the method of its networks beside logits, keys of `ddsdk.networks.NEEDS`.

    Examples:
        >>> import ddsdk
        >>> ddsdk.DM.name, ddsdk.DM.length, ddsdk.DC.length
        ('dm', 'steps', 'students')
        >>> ddsdk.DM.trains_networks(), ddsdk.MTT.trains_networks()
        (False, True)
    """

    name: ClassVar[str]
    length: ClassVar[str] = "steps"
    retries: ClassVar[int] = 5
    needs: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def protocol(self, real: R) -> TrainingProtocol:
        """Return the protocol of training networks on a distilled set of `real`."""

    @abstractmethod
    def source(self, real: R) -> Source:
        """Return `real` as a source of batches for the steps."""

    @abstractmethod
    def described(self, real: R) -> DataDescription:
        """Return the description of `real` that the artefact records."""

    def student(self, real: R) -> MakeStudent | None:  # noqa: ARG002
        """Return the default factory of student networks; None for a method without networks.

        A method with networks overrides this; one without them refuses a factory of the caller.
        """
        return None

    @classmethod
    @final
    def uses_networks(cls) -> bool:
        """Return whether the method has student networks."""
        return cls.student is not Method.student

    def refuse(self, real: R, *, start: object, validation: object, transform: object) -> None:
        """Raise an error for data or options that the method does not support, before any work is done.

        By default everything is supported. `start`, `validation` and `transform` are the arguments of `distill`.
        """

    def runs(self, real: R, *, make_student: MakeStudent, rng: torch.Generator) -> TrainedRuns | None:  # noqa: ARG002
        """Return the training runs on `real` that the method needs: experts, pools or teachers; None for none.

        Their seed derives from the generator that is also passed to `IterativeMethod.plan`.
        """
        return None

    @classmethod
    @final
    def trains_networks(cls) -> bool:
        """Return whether the method needs networks that are first trained on the real data."""
        return cls.runs is not Method.runs

    def stored(self, syn: SyntheticSet, real: R) -> tuple[SyntheticSet, dict[str, Any]]:  # noqa: ARG002
        """Return the set that the artefact stores, and further fields of `ddsdk.Distilled`, such as edges.

        Entries of a field ``provenance`` are added to those of the run, and replace entries of the same name.
        """
        return syn, {}

    def published(self, provenance: dict[str, Any]) -> dict[str, Any]:
        """Return the provenance that the artefact stores; by default all of it."""
        return provenance

    def certificate(self, real: R) -> Certificate | None:  # noqa: ARG002
        """Return the certificate of a differentially private method; None for other methods."""
        return None


class IterativeMethod(Method[R]):
    """A method that optimises the synthetic set in outer steps, from the parts of a plan.

    Attributes:
        repeatable: Whether a plan may be built twice and a step taken twice. False for private methods, where each
            release spends privacy budget.

    Examples:
        >>> import ddsdk
        >>> from ddsdk.running import IterativeMethod
        >>> isinstance(ddsdk.DM(ipc=1), IterativeMethod), isinstance(ddsdk.KRR(ipc=1), IterativeMethod)
        (True, False)
    """

    repeatable: ClassVar[bool] = True

    @abstractmethod
    def plan(self, real: R, *, make_student: MakeStudent, rng: torch.Generator) -> Plan[Any]:
        """Return the parts of the distillation, which `dataclasses.replace` can exchange."""

    def rehearse(
        self,
        real: R,
        *,
        make_student: MakeStudent,
        rng: torch.Generator,
        transform: Callable[[Plan[Any]], Plan[Any]] | None,
    ) -> None:
        """Raise an error for a changed plan that cannot run, before `plan` is called; by default nothing is tried.

        A method whose `plan` cannot be undone overrides this. `transform` is the argument of `distill`.
        """

    def admit(self, plan: Plan[Any]) -> None:
        """Raise an error for a plan that a caller has changed in an unsupported way; by default all are supported."""


class DirectMethod(Method[R]):
    """A method without outer steps: the selection of a coreset, or a solution in closed form.

    Examples:
        >>> import ddsdk
        >>> from ddsdk.running import DirectMethod
        >>> isinstance(ddsdk.KRR(ipc=1), DirectMethod)
        True
    """

    def refuse(self, real: R, *, start: object, validation: object, transform: object) -> None:  # noqa: ARG002
        """Refuse all options of a plan with a ValueError."""
        for option, value in {"start": start, "validation": validation, "transform": transform}.items():
            require(value is None, option, f"be left out for {self.name}, which has no steps", value)

    @abstractmethod
    def make(self, real: R, *, make_student: MakeStudent, rng: torch.Generator) -> SyntheticSet:
        """Return the synthetic set."""
