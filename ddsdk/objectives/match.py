"""Matching objectives: byproduct x distance, class by class, under one siamese augmentation draw."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ddsdk.data import NO_AUGMENTATION, Augmentation, Batch, Source
from ddsdk.foundation import derive, require, require_count
from ddsdk.objectives.byproducts import Byproduct, Gather, in_pieces
from ddsdk.objectives.distances import Distance
from ddsdk.synthetic import SyntheticView

RealSampler = Callable[[nn.Module, Source, int, int, torch.Generator], Batch]
"""`(student, real, c, n, rng) -> Batch`: which at most `n` real images of class `c` a step compares with."""


def random_images(student: nn.Module, real: Source, c: int, n: int, rng: torch.Generator) -> Batch:  # noqa: ARG001
    """Draw `n` real images of class `c` at random, whatever the student thinks of them."""
    return real.of_class(c, n, rng)


@dataclass(frozen=True, kw_only=True)
class ClassMatch:
    """For each class, the distance between what a student makes of real and of synthetic images.

    The terms are yielded one by one: each graph can be freed before the next is built, so memory does not
    grow with the number of classes. The real side keeps no graph and is taken in micro-batches.

    Attributes:
        byproduct: What is compared.
        distance: How.
        real_batch: Real images of each class.
        augmentation: One siamese draw for each class, applied to both sides.
        synthetic_batch: At most so many slots of each class in one step; None takes all of them.
        gather: How the byproducts of micro-batches of real images become that of the batch.
        sample: Which real images a step looks at.
        weights: A factor for each class; None for 1.
        classes: The classes of one step; None takes all of them. A step for each class is a `Schedule` of these.

    Cost: for each class one pass over `real_batch` images without a graph, and one with a graph over the
    synthetic ones.
    """

    byproduct: Byproduct
    distance: Distance
    real_batch: int = 256
    augmentation: Augmentation = NO_AUGMENTATION
    synthetic_batch: int | None = None
    gather: Gather = in_pieces
    sample: RealSampler = random_images
    weights: tuple[float, ...] | None = None
    classes: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        require_count("real_batch", self.real_batch)
        if self.synthetic_batch is not None:
            require_count("synthetic_batch", self.synthetic_batch)

    def __call__(self, student: nn.Module, real: Source, syn: SyntheticView, rng: torch.Generator) -> Iterator[Tensor]:
        """Yield one distance for each class that has synthetic images."""
        if self.weights is not None:
            rule = f"hold one number for each of {real.num_classes} classes"
            require(len(self.weights) == real.num_classes, "weights", rule, self.weights)
        # A source gives at most as many as it is asked for.
        shown = sys.maxsize if self.synthetic_batch is None else self.synthetic_batch
        for c in self._shown(real.num_classes):
            key = derive(rng, "class", c)
            draw = self.augmentation.siamese(derive(key, "augmentation"))
            x, y = syn.of_class(c, shown, derive(key, "synthetic"))
            if len(x) == 0:
                continue
            value = self.byproduct(student, Batch(draw(x), y), graph=True)
            shown_real = self.sample(student, real, c, self.real_batch, derive(key, "real"))
            target = self.gather(self.byproduct, student, shown_real, draw)
            distance = self.distance(value, target)
            yield distance if self.weights is None else self.weights[c] * distance

    def _shown(self, num_classes: int) -> Sequence[int]:
        if self.classes is None:
            return range(num_classes)
        rule = f"lie in 0..{num_classes - 1}"
        require(all(0 <= c < num_classes for c in self.classes), "classes", rule, self.classes)
        return self.classes
