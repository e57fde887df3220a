"""Class-collective matching: the mean over classes of real byproducts against one of the whole synthetic set."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from ddsdk.data import NO_AUGMENTATION, Augmentation, Batch, Draw, Source
from ddsdk.foundation import Checked, PositiveInt, derive
from ddsdk.objectives.base import joined
from ddsdk.objectives.byproducts import Byproduct, in_pieces
from ddsdk.objectives.distances import Distance, dot
from ddsdk.objectives.match import RealSampler, random_images
from ddsdk.synthetic import SyntheticView
from ddsdk.training import micro_batch

Values = tuple[Tensor, ...]


@final
@dataclass(frozen=True, kw_only=True)
class CollectiveMatch(Checked):
    """The distance between what a student makes of all classes of real and of synthetic images at once.

    D(sum_c n_c/N b(S_c), 1/K sum_c b(T_c)), where b is a mean over images: the first is the byproduct of the whole
    synthetic set of N images, n_c of class c. A class-wise distance cannot see how classes differ from each other;
    this one does.

    One augmentation draw serves all classes of both sides. The real side keeps no graph. The synthetic side has a
    graph for a few classes at a time: with v the derivative of D by its first argument, the terms are
    v . n_c/N b(S_c), which have the gradient of D and, shifted by a constant, its value.

    Attributes:
        byproduct: Byproduct that is compared, a mean over the batch.
        distance: Distance of two byproducts.
        real_batch: Real images of each class.
        augmentation: Augmentation with one siamese draw for both sides.
        synthetic_batch: Largest number of slots of each class in one step; None takes all of them.
        sample: Choice of the real images of a step.

    Cost: one pass over `real_batch` images of each class without a graph, and one with a graph over the synthetic
    ones. Where these do not fit one micro-batch, they are passed once more without a graph; memory is then that of
    a micro-batch, or of one class where it is larger.

    References:
        Lee et al., "Dataset Condensation with Contrastive Signals", ICML 2022, arXiv:2202.02916.
    """

    byproduct: Byproduct
    distance: Distance
    real_batch: PositiveInt = 256
    augmentation: Augmentation = NO_AUGMENTATION
    synthetic_batch: PositiveInt | None = None
    sample: RealSampler = random_images

    def __call__(self, student: nn.Module, real: Source, syn: SyntheticView, rng: torch.Generator) -> Iterator[Tensor]:
        """Yield terms that add up to the distance of the classes that have synthetic images."""
        draw = self.augmentation.siamese(derive(rng, "augmentation"))
        shown = self.synthetic_batch or sys.maxsize
        drawn = (syn.of_class(c, shown, derive(rng, "synthetic", c)) for c in range(real.num_classes))
        batches = {c: batch for c, batch in enumerate(drawn) if len(batch.x)}
        if not batches:
            return
        target = self._target(student, real, list(batches), draw, rng)
        groups = _grouped(student, list(batches.values()))
        if len(groups) == 1:
            yield self.distance(self._value(student, groups[0], draw), target)
        else:
            yield from self._terms(student, groups, target, draw)

    def _target(
        self, student: nn.Module, real: Source, classes: Sequence[int], draw: Draw, rng: torch.Generator
    ) -> Values:
        total: Values = ()
        for c in classes:
            images = self.sample(student, real, c, self.real_batch, derive(rng, "real", c))
            total = _added(total, in_pieces(self.byproduct, student, images, draw), 1 / len(classes))
        return total

    def _value(self, student: nn.Module, batch: Batch, draw: Draw) -> Values:
        return self.byproduct(student, Batch(draw(batch.x), batch.y), graph=True)

    def _terms(self, student: nn.Module, groups: Sequence[Batch], target: Values, draw: Draw) -> Iterator[Tensor]:
        images = sum(len(g.x) for g in groups)
        whole: Values = ()
        for g in groups:
            seen = Batch(g.x.detach(), g.y.detach())
            whole = _added(whole, in_pieces(self.byproduct, student, seen, draw), len(g.x) / images)
        whole = tuple(v.requires_grad_() for v in whole)
        with torch.enable_grad():
            distance = self.distance(whole, target)
        slopes = torch.autograd.grad(distance, whole)
        # Added to each term alike, so that their sum is the distance.
        shift = (distance.detach() - dot(slopes, whole).detach()) / len(groups)
        for g in groups:
            yield dot(slopes, self._value(student, g, draw)) * (len(g.x) / images) + shift


def _grouped(student: nn.Module, batches: Sequence[Batch]) -> list[Batch]:
    """Join neighbouring classes as long as they fit one micro-batch.

    Classes stay whole: a graph that a class brings along, such as that of learned labels, is walked once.
    """
    images = sum(len(b.x) for b in batches)
    room = micro_batch(student, batches[0].x.device, images)
    groups: list[list[Batch]] = []
    for batch in batches:
        if groups and sum(len(b.x) for b in groups[-1]) + len(batch.x) <= room:
            groups[-1].append(batch)
        else:
            groups.append([batch])
    return [joined(group) for group in groups]


def _added(total: Values, values: Values, share: float) -> Values:
    scaled = tuple(v.detach() * share for v in values)
    return tuple(t + v for t, v in zip(total, scaled, strict=True)) if total else scaled
