"""A network that is trained against the set, beside any other supply of students."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, NamedTuple, Protocol, TypeVar, final

import torch
from torch import nn

from ddsdk.data import Source
from ddsdk.foundation import derive
from ddsdk.students.fresh import MakeStudent, enrol
from ddsdk.students.supply import Students
from ddsdk.synthetic import SyntheticSet

S = TypeVar("S")
S_contra = TypeVar("S_contra", contravariant=True)


class RivalLesson(Protocol[S_contra]):
    """What a rival learns from before a step."""

    def __call__(
        self, rival: nn.Module, student: S_contra, real: Source, syn: SyntheticSet, rng: torch.Generator
    ) -> torch.Tensor:
        """Return the loss of the rival, which goes down in its eyes as the set gets worse."""
        ...


class Rivalled(NamedTuple, Generic[S]):
    """A student with the rival of its step; `ddsdk.objectives.Through` leads an objective to one of them.

    Attributes:
        student: From the other supply.
        rival: The network.
    """

    student: S
    rival: nn.Module


@final
class WithRival(Generic[S]):
    """Any supply of students, and one network that takes one step against the set before each step of the set.

    Args:
        students: The other supply.
        make_rival: Builds the network.
        lesson: Its loss; None for a network that does not learn.
        make_optimizer: Builds the optimizer of the network's parameters.

    References:
        Liu et al., "Dataset Distillation via Factorization", NeurIPS 2022, arXiv:2210.16774.
    """

    def __init__(
        self,
        students: Students[S],
        make_rival: MakeStudent,
        lesson: RivalLesson[S] | None,
        make_optimizer: Callable[[Any], torch.optim.Optimizer],
    ) -> None:
        self._students = students
        self._make_rival = make_rival
        self._lesson = lesson
        self._make_optimizer = make_optimizer
        self._rival: nn.Module | None = None
        self._optimizer: torch.optim.Optimizer | None = None
        self._loaded: dict[str, Any] = {"rival": {}, "optimizer": {}}

    def next(self, real: Source, syn: SyntheticSet, rng: torch.Generator) -> Rivalled[S]:
        """Return a student of the other supply, and the network after its step."""
        student = self._students.next(real, syn, derive(rng, "student"))
        rival = self._rival or self._enrolled(real, derive(rng, "rival"))
        if self._lesson is not None and self._optimizer is not None:
            self._optimizer.zero_grad(set_to_none=True)
            loss = self._lesson(rival, student, real, syn, derive(rng, "lesson"))
            loss.backward()  # type: ignore[no-untyped-call]
            self._optimizer.step()
        return Rivalled(student, rival)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the other supply, the network and its optimizer."""
        # A state that was loaded and not yet used is still what there is.
        own = self._loaded
        if self._rival is not None:
            optimizer = {} if self._optimizer is None else self._optimizer.state_dict()
            own = {"rival": dict(self._rival.state_dict()), "optimizer": optimizer}
        return {"students": self._students.state_dict(), **own}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave; the network is rebuilt at the next step."""
        self._students.load_state_dict(state["students"])
        self._rival = None
        self._loaded = {name: state[name] for name in ("rival", "optimizer")}

    def _enrolled(self, real: Source, rng: torch.Generator) -> nn.Module:
        self._rival = rival = enrol(self._make_rival, real, rng)
        if self._loaded["rival"]:
            rival.load_state_dict(self._loaded["rival"])
        if self._lesson is not None:
            self._optimizer = self._make_optimizer(rival.parameters())
            if self._loaded["optimizer"]:
                self._optimizer.load_state_dict(self._loaded["optimizer"])
        return rival
