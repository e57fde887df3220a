"""Sums of objectives, and the plain classification loss that several methods add to their matching."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ddsdk.data import NO_AUGMENTATION, Augmentation, Source
from ddsdk.foundation import derive, require_count
from ddsdk.objectives.base import Objective, require_network
from ddsdk.synthetic import SyntheticView

S = TypeVar("S")


@dataclass(frozen=True)
class Total(Generic[S]):
    """A weighted sum of objectives under one student.

    Attributes:
        parts: Pairs (weight, objective). A weight may be a function of the student.
    """

    parts: tuple[tuple[float | Callable[[S], float], Objective[S]], ...]

    def __call__(self, student: S, real: Source, syn: SyntheticView, rng: torch.Generator) -> Iterator[Tensor]:
        """Yield the weighted terms of each part."""
        for i, (weight, part) in enumerate(self.parts):
            factor = weight(student) if callable(weight) else weight
            if factor:
                for term in part(student, real, syn, derive(rng, "part", i)):
                    yield factor * term


@dataclass(frozen=True, kw_only=True)
class CrossEntropy:
    """Mean cross-entropy of the synthetic images of each class under the student: images that a network knows.

    Attributes:
        augmentation: With numbers of its own for each image.
        batch: At most so many slots of each class in one step; None takes all of them.
        teacher: A fixed network that judges in place of the student.
    """

    augmentation: Augmentation = NO_AUGMENTATION
    batch: int | None = None
    teacher: nn.Module | None = None

    def __post_init__(self) -> None:
        if self.batch is not None:
            require_count("batch", self.batch)

    def __call__(
        self,
        student: nn.Module,
        real: Source,  # noqa: ARG002
        syn: SyntheticView,
        rng: torch.Generator,
    ) -> Iterator[Tensor]:
        """Yield one loss for each class that has synthetic images."""
        shown = sys.maxsize if self.batch is None else self.batch
        network = student if self.teacher is None else self.teacher
        require_network(network)
        for c in range(syn.num_classes):
            key = derive(rng, "class", c)
            x, y = syn.of_class(c, shown, derive(key, "synthetic"))
            if len(x):
                draw = self.augmentation.per_image(len(x), derive(key, "augmentation"))
                yield cross_entropy(network(draw(x)), y)
