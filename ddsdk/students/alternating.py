"""Students that train between the distillation steps, in alternation with the synthetic set."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, final

import torch
from torch import nn
from torch.optim import SGD, Optimizer

from ddsdk.data import Source
from ddsdk.foundation import derive, require
from ddsdk.students.fresh import MakeStudent, prepare_student
from ddsdk.students.updates import StudentUpdate
from ddsdk.synthetic import SyntheticSet

MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]
"""Factory of the optimizer of a student's parameters."""


@final
class NetworkWithOptimizer:
    """A network with its optimizer, both part of the state of a supply.

    A state that was loaded is restored at the next call of `present`, which builds the network.

    Args:
        make_student: Factory of the network.
        make_optimizer: Factory of the optimizer of its parameters.
    """

    def __init__(self, make_student: MakeStudent, make_optimizer: MakeOptimizer) -> None:
        self._make_student, self._make_optimizer = make_student, make_optimizer
        self._present: tuple[nn.Module, Optimizer] | None = None
        self._loaded: dict[str, Any] = {}

    def renewed(self, real: Source, rng: torch.Generator) -> tuple[nn.Module, Optimizer]:
        """Return a new network and its optimizer, which replace the present ones."""
        student = prepare_student(self._make_student, real, rng)
        self._present, self._loaded = (student, self._make_optimizer(student.parameters())), {}
        return self._present

    def present(self, real: Source, rng: torch.Generator) -> tuple[nn.Module, Optimizer]:
        """Return the present network and its optimizer; new ones if there are none."""
        if self._present is not None and not self._loaded:
            return self._present
        state = self._loaded
        student, optimizer = self.renewed(real, rng)
        if state:
            student.load_state_dict(state["student"])
            optimizer.load_state_dict(state["optimizer"])
        return student, optimizer

    def state_dict(self) -> dict[str, Any]:
        """Return the states of network and optimizer; an empty dictionary if there are none."""
        if self._present is None or self._loaded:
            return self._loaded
        student, optimizer = self._present
        return {"student": student.state_dict(), "optimizer": optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from the states of network and optimizer in a larger state, if it has them."""
        self._loaded = {name: state[name] for name in ("student", "optimizer") if name in state}


class AlternatingStudents:
    """A supply of one network that trains between distillation steps and is replaced after `period` steps.

    Args:
        make_student: Factory of the networks.
        update: Training of the network between two steps, such as `TrainOnSynthetic`.
        period: Number of steps for which one network is used.
        every: Number of steps between two updates.
        lr: Learning rate of the network's SGD.
        momentum: Momentum of the network's SGD.
        weight_decay: Weight decay of the network's SGD.
        make_optimizer: Factory of another optimizer, such as Adam, which ignores the three numbers; None for SGD.

    Examples:
        >>> import dataclasses, ddsdk
        >>> from ddsdk.students import AlternatingStudents, TrainOnReal
        >>> make_student = ddsdk.network_factory("convnet", (1, 8, 8), 10, width=4)
        >>> supply = AlternatingStudents(make_student, TrainOnReal(steps=1), period=10)
        >>> swap = lambda plan: dataclasses.replace(plan, students=supply)
        >>> len(ddsdk.distill(ddsdk.DM(ipc=1, steps=2), ddsdk.load("digits"), transform=swap))
        10
    """

    def __init__(
        self,
        make_student: MakeStudent,
        update: StudentUpdate,
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
        self._learner = NetworkWithOptimizer(make_student, make_optimizer or sgd)
        self._update, self._period, self._every = update, period, every
        self._served = 0

    def next(self, real: Source, syn: SyntheticSet, rng: torch.Generator) -> nn.Module:
        """Return a new network, or the present one after its update."""
        age = self._served % self._period
        student, optimizer = self._learner.present(real, rng) if age else self._learner.renewed(real, rng)
        if age and age % self._every == 0:
            self._update(student, optimizer, real, syn, derive(rng, "lesson"))
        self._served += 1
        return student

    def state_dict(self) -> dict[str, Any]:
        """Return the states of the network and its optimizer, and the number of steps so far."""
        return {"served": self._served, **self._learner.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from the result of `state_dict`; the network is built at the next step."""
        self._served = state["served"]
        self._learner.load_state_dict(state)
