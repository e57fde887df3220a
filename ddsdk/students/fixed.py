"""Students that never change: networks that were trained before."""

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
    """A supply of fixed teachers: each step has one of them, drawn at random if there are several.

    Args:
        teacher: Function from i to teacher i, such as ``runs.network`` of `TrainedRuns`, called at first use.
        count: Number of teachers.
    """

    def __init__(self, teacher: Callable[[int], S], count: int = 1) -> None:
        require_count("count", count)
        self._teacher = teacher
        self._count = count
        self._known: dict[int, S] = {}

    def next(self, real: Source, syn: SyntheticSet, rng: torch.Generator) -> S:  # noqa: ARG002
        """Return the teacher of a step."""
        return self.draw(rng)

    def draw(self, rng: torch.Generator) -> S:
        """Return one of the teachers, at random if there are several."""
        i = int(torch.randint(self._count, (), generator=rng))
        if i not in self._known:
            self._known[i] = self._teacher(i)
        return self._known[i]

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: there is no memory from one step to the next."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take nothing back."""
