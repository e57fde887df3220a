"""Class-wise matching: the distance of a byproduct on real and on synthetic images, class by class."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ddsdk.data import NO_AUGMENTATION, Augmentation, Batch, Source
from ddsdk.foundation import CheckedDataclass, PositiveInt, derive, require
from ddsdk.objectives.byproducts import Byproduct, Gather, in_micro_batches
from ddsdk.objectives.distances import Distance
from ddsdk.synthetic import SyntheticView

RealSampler = Callable[[nn.Module, Source, int, int, torch.Generator], Batch]
"""`(student, real, c, n, rng) -> Batch`: at most `n` real images of class `c` for the comparison of a step."""


def random_images(student: nn.Module, real: Source, c: int, n: int, rng: torch.Generator) -> Batch:  # noqa: ARG001
    """Return at most `n` random real images of class `c`, independent of the student."""
    return real.of_class(c, n, rng)


@dataclass(frozen=True, kw_only=True)
class ClassMatch(CheckedDataclass):
    """The distance of a byproduct on real and on synthetic images, for each class, under one siamese augmentation.

    The terms are yielded one by one, so that each graph is freed before the next is built, and memory does not grow
    with the number of classes. The real side has no graph and is computed in micro-batches.

    Attributes:
        byproduct: Byproduct that is compared, such as `mean_embedding`.
        distance: Distance of two byproducts, such as `squared`.
        real_batch: Real images of each class in one step.
        augmentation: Siamese augmentation with one draw for each class, applied to both sides.
        synthetic_batch: Largest number of slots of each class in one step; None for all.
        gather: Function for the byproduct of the real images in micro-batches, `in_micro_batches` or `stacked`.
        sample: Function that chooses the real images of a step.
        weights: Weights of the classes, one number for each; None for 1.
        classes: Classes of one step; None for all. An `ddsdk.running.ObjectiveSchedule` changes them from step to step.

    Cost: for each class one pass over `real_batch` images without graph, and one with graph over the synthetic images.

    Examples:
        >>> import dataclasses, ddsdk
        >>> from ddsdk.objectives import ClassMatch, absolute, mean_embedding
        >>> match = ClassMatch(byproduct=mean_embedding, distance=absolute, real_batch=8)
        >>> swap = lambda plan: dataclasses.replace(plan, objective=match)
        >>> len(ddsdk.distill(ddsdk.DM(ipc=1, steps=2), ddsdk.load("digits"), transform=swap))
        10
    """

    byproduct: Byproduct
    distance: Distance
    real_batch: PositiveInt = 256
    augmentation: Augmentation = NO_AUGMENTATION
    synthetic_batch: PositiveInt | None = None
    gather: Gather = in_micro_batches
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
            x, y = syn.of_class(c, self.synthetic_batch or sys.maxsize, derive(key, "synthetic"))
            if len(x) == 0:
                continue
            draw = self.augmentation.siamese(derive(key, "augmentation"))
            value = self.byproduct(student, Batch(draw(x), y), graph=True)
            real_images = self.sample(student, real, c, self.real_batch, derive(key, "real"))
            target = self.gather(self.byproduct, student, real_images, draw)
            distance = self.distance(value, target)
            yield distance if self.weights is None else self.weights[c] * distance
