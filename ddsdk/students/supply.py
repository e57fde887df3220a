"""The interface of a supply of students, and a supply that combines several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, Protocol, Self, TypeVar, final

import torch

from ddsdk.data import Source
from ddsdk.foundation import derive, require
from ddsdk.synthetic import SyntheticSet

S = TypeVar("S")
S_co = TypeVar("S_co", covariant=True)
T = TypeVar("T")


@final
class Unchanging(list[T]):
    """A list in the state of a supply, whose tensors are replaced but never changed in place.

    A deep copy of it is the list itself. The loop deep-copies the state of the students before every step, and so
    does not copy the networks of a queue, of which a step replaces a few.

    Examples:
        >>> import copy, torch
        >>> from ddsdk.students import Unchanging
        >>> state = {"vectors": Unchanging([torch.zeros(3)])}
        >>> copy.deepcopy(state)["vectors"] is state["vectors"]
        True
    """

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return the list itself."""
        return self


class Students(Protocol[S_co]):
    """A supply of students: the student network, or networks, under which each distillation step computes its loss."""

    def next(self, real: Source, syn: SyntheticSet, rng: torch.Generator) -> S_co:
        """Return the student of the next step.

        Args:
            real: Real data of the distillation.
            syn: Synthetic set before the step.
            rng: Root of the random numbers of this step.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return the tensors, numbers and strings from which `load_state_dict` resumes.

        The loop copies them before every step, except lists of the type `Unchanging`.
        """
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from the result of `state_dict`."""
        ...


@final
class StudentEnsemble(Generic[S]):
    """A supply whose student is a tuple: one student of each of several supplies.

    Args:
        supplies: Supplies to combine, at least one.

    Examples:
        >>> import dataclasses, ddsdk
        >>> from ddsdk.students import FreshStudents, StudentEnsemble
        >>> make_student = ddsdk.network_factory("convnet", (1, 8, 8), 10, width=4)
        >>> supply = StudentEnsemble([FreshStudents(make_student) for _ in range(3)])
        >>> swap = lambda plan: dataclasses.replace(plan, students=supply)
        >>> len(ddsdk.distill(ddsdk.RFAD(ipc=1, steps=2, real_batch=8), ddsdk.load("digits"), transform=swap))
        10
    """

    def __init__(self, supplies: Sequence[Students[S]]) -> None:
        require(len(supplies) >= 1, "supplies", "hold at least one", len(supplies))
        self._supplies = tuple(supplies)

    def next(self, real: Source, syn: SyntheticSet, rng: torch.Generator) -> tuple[S, ...]:
        """Return the students of the next step."""
        return tuple(s.next(real, syn, derive(rng, "one of several", i)) for i, s in enumerate(self._supplies))

    def state_dict(self) -> dict[str, Any]:
        """Return the states of all supplies."""
        return {"supplies": [supply.state_dict() for supply in self._supplies]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from the result of `state_dict`."""
        for supply, supply_state in zip(self._supplies, state["supplies"], strict=True):
            supply.load_state_dict(supply_state)
