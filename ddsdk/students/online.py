"""A student that learns on beside the set, until it learns no more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import torch
from torch import nn

from ddsdk.data import NO_AUGMENTATION, Augmentation, Batch, Source
from ddsdk.foundation import derive, require_count, require_rate
from ddsdk.students.alternating import Lesson
from ddsdk.students.fresh import MakeStudent, enrol
from ddsdk.students.plateau import Check
from ddsdk.synthetic import SyntheticSet
from ddsdk.training import Loss, gradient_step, soft_cross_entropy


@final
@dataclass(frozen=True, kw_only=True)
class OnBatch:
    """Train for one step on some random items of the synthetic set as it is now.

    Attributes:
        batch_size: Items of the step.
        augmentation: With numbers of its own for each.
        loss: Summed over the batch; the step descends its mean.
    """

    batch_size: int = 256
    augmentation: Augmentation = NO_AUGMENTATION
    loss: Loss = soft_cross_entropy

    def __post_init__(self) -> None:
        require_count("batch_size", self.batch_size)

    def __call__(
        self,
        student: nn.Module,
        optimizer: torch.optim.Optimizer,
        real: Source,  # noqa: ARG002
        syn: SyntheticSet,
        rng: torch.Generator,
    ) -> None:
        """Train `student` in place."""
        with torch.no_grad():
            x, y = syn.mixed(self.batch_size, derive(rng, "images"))
        draw = self.augmentation.per_image(len(x), derive(rng, "augmentation"))
        gradient_step(student, optimizer, Batch(draw(x), y), self.loss)


def improves(found: list[float], window: int) -> bool:
    """Tell whether the moving average has had a new highest value within the last `window` numbers.

    Args:
        found: At least one number.
        window: Numbers that are averaged, and for which a network may stay without a new best average.
    """
    sums = torch.tensor(found, dtype=torch.float64).unfold(0, window, 1).mean(1) if len(found) >= window else None
    return sums is None or len(sums) - 1 - int(sums.argmax()) < window


@final
class OnlineStudents:
    """A network that has a lesson after every step, and makes room for a new one when its accuracy stops rising.

    There is a check after each lesson. A new network comes once the moving average of `window` checks has been without
    a new best for another `window` of them, or after `longest` steps.

    Args:
        make_student: Builds a network from a generator.
        lesson: What the network learns between two steps.
        check: Measures the accuracy, see `accuracy_on`.
        window: Checks that are averaged.
        longest: Steps for which one network serves at most.
        lr: Learning rate of the network (Adam).

    Raises:
        ValueError: If a count or the rate is out of range.

    References:
        Bohdal, Yang and Hospedales, "Flexible Dataset Distillation: Learn Labels Instead of Images", 2020,
        arXiv:2006.08572.
    """

    def __init__(
        self,
        make_student: MakeStudent,
        lesson: Lesson,
        check: Check,
        *,
        window: int = 50,
        longest: int = 1000,
        lr: float = 1e-3,
    ) -> None:
        require_count("window", window)
        require_count("longest", longest)
        require_rate("lr", lr)
        self._make_student, self._lesson, self._check = make_student, lesson, check
        self._window, self._longest, self._lr = window, longest, lr
        self._checks: list[float] = []
        self._student: nn.Module | None = None
        self._optimizer: torch.optim.Optimizer | None = None
        self._loaded: dict[str, Any] | None = None

    def next(self, real: Source, syn: SyntheticSet, rng: torch.Generator) -> nn.Module:
        """Return a new network, or the present one after its lesson."""
        if not self._checks or self._is_done():
            student, _ = self._start(real, rng)
            self._checks = [self._check(student, real, derive(rng, "check"))]
            return student
        student, optimizer = self._present(real, rng)
        self._lesson(student, optimizer, real, syn, derive(rng, "lesson"))
        self._checks = [*self._checks, self._check(student, real, derive(rng, "check"))]
        return student

    def state_dict(self) -> dict[str, Any]:
        """Return the network, its optimizer and the checks of its life."""
        if self._loaded is not None:
            return self._loaded
        if self._student is None or self._optimizer is None:
            return {"checks": []}
        return {
            "checks": list(self._checks),
            "student": self._student.state_dict(),
            "optimizer": self._optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave; the network is rebuilt at the next step."""
        self._checks = list(state["checks"])
        self._loaded = state if "student" in state else None

    def _is_done(self) -> bool:
        """Tell whether the network has served its time."""
        return len(self._checks) >= self._longest or not improves(self._checks, self._window)

    def _start(self, real: Source, rng: torch.Generator) -> tuple[nn.Module, torch.optim.Optimizer]:
        self._loaded = None
        self._student = enrol(self._make_student, real, rng)
        self._optimizer = torch.optim.Adam(self._student.parameters(), lr=self._lr)
        return self._student, self._optimizer

    def _present(self, real: Source, rng: torch.Generator) -> tuple[nn.Module, torch.optim.Optimizer]:
        state = self._loaded
        if self._student is not None and self._optimizer is not None and state is None:
            return self._student, self._optimizer
        student, optimizer = self._start(real, rng)
        student.load_state_dict((state or {})["student"])
        optimizer.load_state_dict((state or {})["optimizer"])
        return student, optimizer
