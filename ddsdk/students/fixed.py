"""Fixed teachers: trained networks that do not change during the distillation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar, final

import torch

from ddsdk.data import Source
from ddsdk.foundation import require_count
from ddsdk.synthetic import SyntheticSet

S = TypeVar("S")


@final
class FixedTeachers(Generic[S]):
    """A supply of fixed teachers; each step takes one at random.

    Args:
        teacher: Function from i to teacher i, such as ``runs.network`` of `TrainedRuns`; called at the first use of i.
        count: Number of teachers, at least 1.

    Examples:
        >>> import dataclasses, ddsdk
        >>> teacher = ddsdk.network_factory("convnet", (1, 8, 8), 10, width=4)(ddsdk.generator(0))
        >>> supply = ddsdk.students.FixedTeachers(lambda i: teacher)
        >>> swap = lambda plan: dataclasses.replace(plan, students=supply)
        >>> len(ddsdk.distill(ddsdk.DM(ipc=1, steps=2), ddsdk.load("digits"), transform=swap))
        10
    """

    def __init__(self, teacher: Callable[[int], S], count: int = 1) -> None:
        require_count("count", count)
        self._teacher = teacher
        self._count = count
        self._teachers: dict[int, S] = {}

    def next(self, real: Source, syn: SyntheticSet, rng: torch.Generator) -> S:  # noqa: ARG002
        """Return the teacher of the next step."""
        return self.draw(rng)

    def draw(self, rng: torch.Generator) -> S:
        """Return one of the teachers at random."""
        i = int(torch.randint(self._count, (), generator=rng))
        if i not in self._teachers:
            self._teachers[i] = self._teacher(i)
        return self._teachers[i]

    def state_dict(self) -> dict[str, Any]:
        """Return an empty dictionary: the supply has no state."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Do nothing: the supply has no state."""
