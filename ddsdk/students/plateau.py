"""Students whose lessons and lifetimes depend on their accuracy on real data, within hard caps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, final

import torch
from torch import nn
from torch.optim import SGD, Adam, Optimizer

from ddsdk.data import Source
from ddsdk.foundation import derive, require_count, require_rate
from ddsdk.students.alternating import Learner, MakeOptimizer
from ddsdk.students.fresh import MakeStudent
from ddsdk.students.lessons import Lesson
from ddsdk.synthetic import SyntheticSet
from ddsdk.training import probabilities

Check = Callable[[nn.Module, Source, torch.Generator], float]
"""`(student, real, rng) -> accuracy`, 0..1."""


def accuracy_on(images: int) -> Check:
    """Return a check: the accuracy on at most so many random real images.

    The network is taken as it is, and not put into eval mode and back: that would thaw frozen batch statistics.
    """
    require_count("images", images)

    def check(student: nn.Module, real: Source, rng: torch.Generator) -> float:
        x, y = real.mixed(images, rng)
        hits = probabilities(student, x).argmax(1) == y.argmax(1)
        return float(hits.float().mean())

    return check


def spread(found: Sequence[float], window: int) -> float:
    """Return the difference of the largest and the smallest of the last `window` numbers."""
    last = found[-window:]
    return max(last) - min(last)


def improves(found: list[float], window: int) -> bool:
    """Return whether the moving average has had a new highest value within the last `window` numbers.

    Args:
        found: One number or more.
        window: Numbers that are averaged, and for which a network may stay without a new best average.
    """
    sums = torch.tensor(found, dtype=torch.float64).unfold(0, window, 1).mean(1) if len(found) >= window else None
    return sums is None or len(sums) - 1 - int(sums.argmax()) < window


class CheckedStudents(ABC):
    """A network with a check of its accuracy after its birth and after the lessons between two steps.

    Args:
        make_student: Factory of the networks.
        lesson: One lesson.
        check: Measure of the accuracy, see `accuracy_on`.
        make_optimizer: Factory of the optimizer of a network's parameters.
    """

    def __init__(self, make_student: MakeStudent, lesson: Lesson, check: Check, make_optimizer: MakeOptimizer) -> None:
        self._lesson, self._check = lesson, check
        self._learner = Learner(make_student, make_optimizer)
        self._checks: list[float] = []

    @abstractmethod
    def is_done(self) -> bool:
        """Return whether the network makes room for a new one."""

    @abstractmethod
    def teach(
        self, student: nn.Module, optimizer: Optimizer, real: Source, syn: SyntheticSet, rng: torch.Generator
    ) -> float:
        """Give the lessons between two steps; return the accuracy after them."""

    @final
    def next(self, real: Source, syn: SyntheticSet, rng: torch.Generator) -> nn.Module:
        """Return a new network, or the present one after its lessons."""
        if not self._checks or self.is_done():
            student, _ = self._learner.renewed(real, rng)
            self._checks = [self._check(student, real, derive(rng, "check"))]
        else:
            student, optimizer = self._learner.present(real, rng)
            self._checks = [*self._checks, self.teach(student, optimizer, real, syn, rng)]
        return student

    @final
    def state_dict(self) -> dict[str, Any]:
        """Return the network, its optimizer and the checks of its life."""
        return {"checks": list(self._checks), **self._learner.state_dict()}

    @final
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where `state_dict` was taken; the network is built at the next step."""
        self._checks = list(state["checks"])
        self._learner.load_state_dict(state)


@final
class PlateauStudents(CheckedStudents):
    """A network that learns between two steps until its accuracy moves, and serves until its accuracy settles.

    Between two steps there are lessons until the last `window` checks differ by more than `moved`, `most_lessons` at
    most. A new network comes once the last `window` checks of its steps differ by less than `settled`, or after
    `longest` steps. Without these caps either loop could go on for long: the accuracy need not move, nor settle.

    Args:
        make_student: Factory of the networks.
        lesson: One lesson.
        check: Measure of the accuracy, see `accuracy_on`.
        longest: Largest number of steps for which one network serves.
        most_lessons: Largest number of lessons between two steps; 0 leaves the network untrained.
        window: Checks that are compared.
        settled: Spread of the checks below which a network has settled.
        moved: Spread of the checks above which a network has moved.
        lr: Learning rate of the network (SGD without momentum).

    References:
        Wang et al., "CAFE", CVPR 2022, arXiv:2203.01531, the dynamic bi-level optimisation.
    """

    def __init__(
        self,
        make_student: MakeStudent,
        lesson: Lesson,
        check: Check,
        *,
        longest: int,
        most_lessons: int,
        window: int = 10,
        settled: float = 0.04,
        moved: float = 0.03,
        lr: float = 0.01,
    ) -> None:
        require_count("longest", longest)
        require_count("most_lessons", most_lessons, least=0)
        require_count("window", window, least=2)
        for name, value in (("settled", settled), ("moved", moved), ("lr", lr)):
            require_rate(name, value)
        super().__init__(make_student, lesson, check, partial(SGD, lr=lr))
        self._longest, self._most_lessons = longest, most_lessons
        self._window, self._settled, self._moved = window, settled, moved

    def is_done(self) -> bool:
        """Return whether the accuracy has settled, or the cap is reached."""
        life = len(self._checks)
        flat = life >= self._window and spread(self._checks, self._window) < self._settled
        return flat or life >= self._longest

    def teach(
        self, student: nn.Module, optimizer: Optimizer, real: Source, syn: SyntheticSet, rng: torch.Generator
    ) -> float:
        """Give lessons until the accuracy has moved."""
        found = [self._checks[-1]]
        for i in range(self._most_lessons):
            self._lesson(student, optimizer, real, syn, derive(rng, "lesson", i))
            found.append(self._check(student, real, derive(rng, "check", i)))
            if spread(found, self._window) > self._moved:
                break
        return found[-1]


@final
class OnlineStudents(CheckedStudents):
    """A network that has a lesson after every step, and makes room for a new one when its accuracy stops rising.

    A new network comes once the moving average of `window` checks has been without a new best for another `window` of
    them, or after `longest` steps.

    Args:
        make_student: Factory of the networks.
        lesson: Lesson between two steps.
        check: Measure of the accuracy, see `accuracy_on`.
        window: Checks that are averaged.
        longest: Largest number of steps for which one network serves.
        lr: Learning rate of the network (Adam).

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
        super().__init__(make_student, lesson, check, partial(Adam, lr=lr))
        self._window, self._longest = window, longest

    def is_done(self) -> bool:
        """Return whether the accuracy has stopped rising, or the cap is reached."""
        return len(self._checks) >= self._longest or not improves(self._checks, self._window)

    def teach(
        self, student: nn.Module, optimizer: Optimizer, real: Source, syn: SyntheticSet, rng: torch.Generator
    ) -> float:
        """Give one lesson."""
        self._lesson(student, optimizer, real, syn, derive(rng, "lesson"))
        return self._check(student, real, derive(rng, "check"))
