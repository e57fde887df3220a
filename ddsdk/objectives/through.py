"""An objective for students that are more than a network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from ddsdk.data import Source
from ddsdk.objectives.base import Objective
from ddsdk.synthetic import SyntheticView

S = TypeVar("S")
T = TypeVar("T")


@dataclass(frozen=True)
class Through(Generic[S, T]):
    """An objective that looks at a part of the student only.

    Attributes:
        part: From the student to what `objective` looks at, such as its network.
        objective: What is minimised.
    """

    part: Callable[[S], T]
    objective: Objective[T]

    def __call__(self, student: S, real: Source, syn: SyntheticView, rng: torch.Generator) -> Iterator[Tensor]:
        """Yield the terms of the objective."""
        yield from self.objective(self.part(student), real, syn, rng)
