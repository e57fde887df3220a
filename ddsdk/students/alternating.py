"""Students that train between the steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, final

import torch
from torch import nn
from torch.optim import SGD, Optimizer

from ddsdk.data import Source
from ddsdk.foundation import derive, require
from ddsdk.students.fresh import MakeStudent, enrol
from ddsdk.students.lessons import Lesson
from ddsdk.synthetic import SyntheticSet

MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]
"""Builds the optimizer of a student's parameters."""


@final
class Learner:
    """A network with its optimizer, which a state that was loaded builds again at its next use.

    Args:
        make_student: Factory of the network.
        make_optimizer: Factory of the optimizer of its parameters.
    """

    def __init__(self, make_student: MakeStudent, make_optimizer: MakeOptimizer) -> None:
        self._make_student, self._make_optimizer = make_student, make_optimizer
        self._present: tuple[nn.Module, Optimizer] | None = None
        self._loaded: dict[str, Any] = {}

    def renewed(self, real: Source, rng: torch.Generator) -> tuple[nn.Module, Optimizer]:
        """Return a new network and its optimizer, which take the place of the present ones."""
        student = enrol(self._make_student, real, rng)
        self._present, self._loaded = (student, self._make_optimizer(student.parameters())), {}
        return self._present

    def present(self, real: Source, rng: torch.Generator) -> tuple[nn.Module, Optimizer]:
        """Return the present network and its optimizer; new ones where there are none."""
        if self._present is not None and not self._loaded:
            return self._present
        state = self._loaded
        student, optimizer = self.renewed(real, rng)
        if state:
            student.load_state_dict(state["student"])
            optimizer.load_state_dict(state["optimizer"])
        return student, optimizer

    def state_dict(self) -> dict[str, Any]:
        """Return the states of network and optimizer; nothing where there are none."""
        if self._present is None or self._loaded:
            return self._loaded
        student, optimizer = self._present
        return {"student": student.state_dict(), "optimizer": optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the states of network and optimizer from a larger state that may hold them."""
        self._loaded = {name: state[name] for name in ("student", "optimizer") if name in state}


class AlternatingStudents:
    """A network that has a lesson after every step, or every few, and makes room for a new one after `period` steps.

    Args:
        make_student: Factory of the networks.
        lesson: Lesson between two steps.
        period: Steps for which one network serves.
        every: Steps between two lessons.
        lr: Learning rate of the network (SGD).
        momentum: Momentum of the network.
        weight_decay: Weight decay of the network.
        make_optimizer: Factory of another optimizer of its parameters, such as Adam, which does without the three
            numbers; None for SGD.
    """

    def __init__(
        self,
        make_student: MakeStudent,
        lesson: Lesson,
        *,
        period: int,
        every: int = 1,
        lr: float = 0.01,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        make_optimizer: MakeOptimizer | None = None,
    ) -> None:
        require(period >= 1, "period", "be at least 1", period)
        require(every >= 1, "every", "be at least 1", every)
        sgd = partial(SGD, lr=lr, momentum=momentum, weight_decay=weight_decay)
        self._learner = Learner(make_student, make_optimizer or sgd)
        self._lesson, self._period, self._every = lesson, period, every
        self._served = 0

    def next(self, real: Source, syn: SyntheticSet, rng: torch.Generator) -> nn.Module:
        """Return a new network, or the present one after its lesson."""
        age = self._served % self._period
        student, optimizer = self._learner.present(real, rng) if age else self._learner.renewed(real, rng)
        if age and age % self._every == 0:
            self._lesson(student, optimizer, real, syn, derive(rng, "lesson"))
        self._served += 1
        return student

    def state_dict(self) -> dict[str, Any]:
        """Return the network, its optimizer and the number of steps served."""
        return {"served": self._served, **self._learner.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where `state_dict` was taken; the network is built at the next step."""
        self._served = state["served"]
        self._learner.load_state_dict(state)
