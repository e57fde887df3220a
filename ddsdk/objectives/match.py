"""Matching objectives: byproduct x distance, class by class, under one siamese augmentation draw."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ddsdk.data import NO_AUGMENTATION, Augmentation, Batch, Source
from ddsdk.foundation import Checked, PositiveInt, derive, require
from ddsdk.objectives.byproducts import Byproduct, Gather, in_pieces
from ddsdk.objectives.distances import Distance
from ddsdk.synthetic import SyntheticView

RealSampler = Callable[[nn.Module, Source, int, int, torch.Generator], Batch]
"""`(student, real, c, n, rng) -> Batch`: at most `n` real images of class `c`, with which a step compares."""


def random_images(student: nn.Module, real: Source, c: int, n: int, rng: torch.Generator) -> Batch:  # noqa: ARG001
    """Draw `n` real images of class `c` at random, whatever the student."""
    return real.of_class(c, n, rng)


@dataclass(frozen=True, kw_only=True)
class ClassMatch(Checked):
    """For each class, the distance between what a student makes of real and of synthetic images.

    The terms are yielded one by one: each graph can be freed before the next is built, so memory does not
    grow with the number of classes. The real side keeps no graph and is taken in micro-batches.

    Attributes:
        byproduct: Byproduct that is compared.
        distance: Distance of two byproducts.
        real_batch: Real images of each class.
        augmentation: Augmentation with one siamese draw for each class, applied to both sides.
        synthetic_batch: Largest number of slots of each class in one step; None takes all of them.
        gather: Byproduct of a batch of real images from its micro-batches, `in_pieces` or `stacked`.
        sample: Choice of the real images of a step.
        weights: Factor for each class; None for 1.
        classes: Classes of one step; None takes all of them. A step for each class is a `Schedule` of these.

    Cost: for each class one pass over `real_batch` images without a graph, and one with a graph over the
    synthetic ones.
    """

    byproduct: Byproduct
    distance: Distance
    real_batch: PositiveInt = 256
    augmentation: Augmentation = NO_AUGMENTATION
    synthetic_batch: PositiveInt | None = None
    gather: Gather = in_pieces
    sample: RealSampler = random_images
    weights: tuple[float, ...] | None = None
    classes: tuple[int, ...] | None = None

    def __call__(self, student: nn.Module, real: Source, syn: SyntheticView, rng: torch.Generator) -> Iterator[Tensor]:
        """Yield one distance for each class that has synthetic images."""
        k = real.num_classes
        fits = self.weights is None or len(self.weights) == k
        require(fits, "weights", f"hold one number for each of {k} classes", self.weights)
        classes = range(k) if self.classes is None else self.classes
        require(all(0 <= c < k for c in classes), "classes", f"lie in 0..{k - 1}", classes)
        for c in classes:
            key = derive(rng, "class", c)
            draw = self.augmentation.siamese(derive(key, "augmentation"))
            x, y = syn.of_class(c, self.synthetic_batch or sys.maxsize, derive(key, "synthetic"))
            if len(x) == 0:
                continue
            value = self.byproduct(student, Batch(draw(x), y), graph=True)
            shown_real = self.sample(student, real, c, self.real_batch, derive(key, "real"))
            target = self.gather(self.byproduct, student, shown_real, draw)
            distance = self.distance(value, target)
            yield distance if self.weights is None else self.weights[c] * distance
