"""Students whose lessons and lifetimes are decided by their accuracy on real data, within hard caps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, final

import torch
from torch import nn

from ddsdk.data import Source
from ddsdk.foundation import derive, require_count, require_rate
from ddsdk.students.alternating import Lesson
from ddsdk.students.fresh import MakeStudent, enrol
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


@final
class PlateauStudents:
    """A network that learns between two steps until its accuracy moves, and serves until its accuracy settles.

    Between two steps there are lessons until the last `window` checks differ by more than `moved`, `most_lessons` at
    most. There is a check after the birth and one after each step's lessons; a new network comes once the last
    `window` of these differ by less than `settled`, or after `longest` steps. Without these caps either loop could
    spin for long: the accuracy need not move, nor settle.

    Args:
        make_student: Builds a network from a generator.
        lesson: What the network learns at once.
        check: Measures the accuracy.
        longest: Steps for which one network serves at most.
        most_lessons: Lessons between two steps at most; 0 leaves the network untrained.
        window: Checks that are compared.
        settled: See above.
        moved: See above.
        lr: Learning rate of the network (SGD without momentum).

    Raises:
        ValueError: If a count or a rate is out of range.

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
        self._make_student, self._lesson, self._check = make_student, lesson, check
        self._longest, self._most_lessons = longest, most_lessons
        self._window, self._settled, self._moved, self._lr = window, settled, moved, lr
        self._checks: list[float] = []
        self._student: nn.Module | None = None
        self._loaded: dict[str, Any] | None = None

    def next(self, real: Source, syn: SyntheticSet, rng: torch.Generator) -> nn.Module:
        """Return a new network, or the present one after its lessons."""
        if not self._checks or self._is_done():
            self._loaded = None
            self._student = enrol(self._make_student, real, rng)
            self._checks = [self._check(self._student, real, derive(rng, "check"))]
            return self._student
        if self._student is None or self._loaded is not None:
            self._student = enrol(self._make_student, real, rng)
            self._student.load_state_dict((self._loaded or {})["student"])
            self._loaded = None
        self._checks = [*self._checks, self._teach(self._student, real, syn, rng)]
        return self._student

    def state_dict(self) -> dict[str, Any]:
        """Return the network and the checks of its life."""
        if self._loaded is not None:
            return self._loaded
        if self._student is None:
            return {"checks": []}
        return {"checks": list(self._checks), "student": self._student.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave; the network is rebuilt at the next step."""
        self._checks = list(state["checks"])
        self._loaded = state if "student" in state else None

    def _is_done(self) -> bool:
        """Tell whether the network has served its time."""
        life = len(self._checks)
        flat = life >= self._window and spread(self._checks, self._window) < self._settled
        return flat or life >= self._longest

    def _teach(self, student: nn.Module, real: Source, syn: SyntheticSet, rng: torch.Generator) -> float:
        """Give lessons until the accuracy has moved; return it."""
        optimizer = torch.optim.SGD(student.parameters(), lr=self._lr)
        found = [self._checks[-1]]
        for i in range(self._most_lessons):
            self._lesson(student, optimizer, real, syn, derive(rng, "lesson", i))
            found.append(self._check(student, real, derive(rng, "check", i)))
            if spread(found, self._window) > self._moved:
                break
        return found[-1]
