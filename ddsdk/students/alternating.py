"""Students that train between the steps, on the synthetic set or on real data."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from ddsdk.data import NO_AUGMENTATION, Augmentation, Batch, Source, cutmix
from ddsdk.foundation import derive, require
from ddsdk.students.fresh import MakeStudent, enrol
from ddsdk.synthetic import SyntheticSet
from ddsdk.training import epoch, gradient_step

Lesson = Callable[[nn.Module, torch.optim.Optimizer, Source, SyntheticSet, torch.Generator], None]
"""`(student, optimizer, real, syn, rng)`: trains the student in place."""

MakeOptimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
"""Builds the optimizer of a student's parameters."""


@dataclass(frozen=True, kw_only=True)
class OnSynthetic:
    """Train for some epochs on the synthetic set as it is now.

    Attributes:
        epochs: Passes over the set.
        batch_size: Images of one step.
        augmentation: With numbers of its own for each image.
    """

    epochs: int
    batch_size: int = 256
    augmentation: Augmentation = NO_AUGMENTATION

    def __call__(
        self,
        student: nn.Module,
        optimizer: torch.optim.Optimizer,
        real: Source,  # noqa: ARG002
        syn: SyntheticSet,
        rng: torch.Generator,
    ) -> None:
        """Train `student` in place."""
        images = syn.detached(derive(rng, "decode"))
        for i in range(self.epochs):
            for batch in epoch(images, self.batch_size, self.augmentation, derive(rng, "epoch", i)):
                gradient_step(student, optimizer, batch)


@dataclass(frozen=True, kw_only=True)
class OnReal:
    """Train for some steps on real images.

    Attributes:
        steps: Optimizer steps.
        batch_size: Images of one step.
        augmentation: With numbers of its own for each image.
        mix: Probability that a batch is mixed by CutMix.
    """

    steps: int
    batch_size: int = 256
    augmentation: Augmentation = NO_AUGMENTATION
    mix: float = 0.0

    def __post_init__(self) -> None:
        require(0 <= self.mix <= 1, "mix", "lie in 0..1", self.mix)

    def __call__(
        self,
        student: nn.Module,
        optimizer: torch.optim.Optimizer,
        real: Source,
        syn: SyntheticSet,  # noqa: ARG002
        rng: torch.Generator,
    ) -> None:
        """Train `student` in place."""
        self.on(student, optimizer, real, rng)

    def on(self, student: nn.Module, optimizer: torch.optim.Optimizer, real: Source, rng: torch.Generator) -> None:
        """Train a network in place, where there is no synthetic set.

        Args:
            student: Network to train.
            optimizer: Optimizer of its parameters.
            real: Source of the batches.
            rng: Root of batches, augmentation and CutMix.
        """
        for i in range(self.steps):
            x, y = real.mixed(self.batch_size, derive(rng, "real", i))
            draw = self.augmentation.per_image(len(x), derive(rng, "augmentation", i))
            mixed = cutmix(draw(x), y, self.mix, derive(rng, "mix", i))
            gradient_step(student, optimizer, Batch(*mixed))


class AlternatingStudents:
    """A network that has a lesson after every step, or every few, and makes room for a new one after `period` steps.

    Args:
        make_student: Builds a network from a generator.
        lesson: What the network learns between two steps.
        period: Steps for which one network serves.
        every: Steps between two lessons.
        lr: Learning rate of the network (SGD).
        momentum: Momentum of the network.
        weight_decay: Weight decay of the network.
        make_optimizer: Builds another optimizer of its parameters, such as Adam; the three numbers are then not read.

    Raises:
        ValueError: If `period` or `every` is below 1.
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
        self._make_student = make_student
        self._lesson = lesson
        self._period = period
        self._every = every
        sgd = partial(torch.optim.SGD, lr=lr, momentum=momentum, weight_decay=weight_decay)
        self._make_optimizer: MakeOptimizer = sgd if make_optimizer is None else make_optimizer
        self._served = 0
        self._student: nn.Module | None = None
        self._optimizer: torch.optim.Optimizer | None = None
        self._loaded: dict[str, Any] | None = None

    def next(self, real: Source, syn: SyntheticSet, rng: torch.Generator) -> nn.Module:
        """Return a new network, or the present one after its lesson."""
        if self._served % self._period == 0:
            self._start(real, rng)
        elif self._loaded is not None:
            self._restore(real, rng)
        student, optimizer = self._student, self._optimizer
        assert student is not None
        assert optimizer is not None
        age = self._served % self._period
        if age and age % self._every == 0:
            self._lesson(student, optimizer, real, syn, derive(rng, "lesson"))
        self._served += 1
        return student

    def state_dict(self) -> dict[str, Any]:
        """Return the network, its optimizer and how many steps it has served."""
        if self._loaded is not None:
            return self._loaded
        if self._student is None or self._optimizer is None:
            return {"served": self._served}
        return {
            "served": self._served,
            "student": self._student.state_dict(),
            "optimizer": self._optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave; the network is rebuilt at the next step."""
        self._served = state["served"]
        self._loaded = state if "student" in state else None

    def _start(self, real: Source, rng: torch.Generator) -> None:
        self._loaded = None
        self._student = enrol(self._make_student, real, rng)
        self._optimizer = self._make_optimizer(self._student.parameters())

    def _restore(self, real: Source, rng: torch.Generator) -> None:
        state = self._loaded
        assert state is not None
        self._start(real, rng)
        assert self._student is not None
        assert self._optimizer is not None
        self._student.load_state_dict(state["student"])
        self._optimizer.load_state_dict(state["optimizer"])
