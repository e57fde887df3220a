"""Class-collective matching of DCC: the distance between byproducts of all classes together."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from ddsdk.data import NO_AUGMENTATION, Augmentation, Batch, Draw, Source
from ddsdk.foundation import CheckedDataclass, PositiveInt, derive
from ddsdk.objectives.base import joined
from ddsdk.objectives.byproducts import Byproduct, in_micro_batches
from ddsdk.objectives.distances import Distance, dot
from ddsdk.objectives.match import RealSampler, random_images
from ddsdk.synthetic import SyntheticView
from ddsdk.training import micro_batch

Values = tuple[Tensor, ...]


@final
@dataclass(frozen=True, kw_only=True)
class CollectiveMatch(CheckedDataclass):
    """The distance between the byproducts of all classes of synthetic and of real images together.

    D(sum_c n_c/N b(S_c), 1/K sum_c b(T_c)), with b a mean over images: the first argument is the byproduct of the whole
    synthetic set of N images, n_c of class c. Class-wise distances ignore the differences between classes; this
    distance includes them.

    One augmentation draw serves all classes of both sides. The real side has no graph. The synthetic side has the graph
    of a few classes at a time: with v the derivative of D by its first argument, the terms are v . n_c/N b(S_c) plus a
    constant. Their gradients add up to that of D, and with the constant their values add up to D.

    Attributes:
        byproduct: Byproduct that is compared, a mean over the batch.
        distance: Distance of two byproducts.
        real_batch: Real images of each class in one step.
        augmentation: Siamese augmentation with one draw for both sides.
        synthetic_batch: Largest number of slots of each class in one step; None for all.
        sample: Function that chooses the real images of a step.

    Cost: one pass over `real_batch` images of each class without graph, and one with graph over the synthetic images.
    If these do not fit one micro-batch, they are passed once more without graph; memory is then that of a micro-batch,
    or of one class where it is larger.

    References:
        Lee et al., "Dataset Condensation with Contrastive Signals", ICML 2022, arXiv:2202.02916.

    Examples:
        >>> import dataclasses, ddsdk
        >>> from ddsdk.objectives import CollectiveMatch, filter_cosine, weight_gradients
        >>> match = CollectiveMatch(byproduct=weight_gradients, distance=filter_cosine, real_batch=8)
        >>> swap = lambda plan: dataclasses.replace(plan, objective=match)
        >>> len(ddsdk.distill(ddsdk.DM(ipc=1, steps=2), ddsdk.load("digits"), transform=swap))
        10
    """

    byproduct: Byproduct
    distance: Distance
    real_batch: PositiveInt = 256
    augmentation: Augmentation = NO_AUGMENTATION
    synthetic_batch: PositiveInt | None = None
    sample: RealSampler = random_images

    def __call__(self, student: nn.Module, real: Source, syn: SyntheticView, rng: torch.Generator) -> Iterator[Tensor]:
        """Yield terms that add up to the distance, over the classes that have synthetic images."""
        draw = self.augmentation.siamese(derive(rng, "augmentation"))
        size = self.synthetic_batch or sys.maxsize
        synthetic = (syn.of_class(c, size, derive(rng, "synthetic", c)) for c in range(real.num_classes))
        batches = {c: batch for c, batch in enumerate(synthetic) if len(batch.x)}
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
            total = _added(total, in_micro_batches(self.byproduct, student, images, draw), 1 / len(classes))
        return total

    def _value(self, student: nn.Module, batch: Batch, draw: Draw) -> Values:
        return self.byproduct(student, Batch(draw(batch.x), batch.y), graph=True)

    def _terms(self, student: nn.Module, groups: Sequence[Batch], target: Values, draw: Draw) -> Iterator[Tensor]:
        images = sum(len(g.x) for g in groups)
        value: Values = ()
        for g in groups:
            detached = Batch(g.x.detach(), g.y.detach())
            value = _added(value, in_micro_batches(self.byproduct, student, detached, draw), len(g.x) / images)
        value = tuple(v.requires_grad_() for v in value)
        with torch.enable_grad():
            distance = self.distance(value, target)
        derivatives = torch.autograd.grad(distance, value)
        # The same constant in each term makes the sum of the terms equal to the distance.
        constant = (distance.detach() - dot(derivatives, value).detach()) / len(groups)
        for g in groups:
            yield dot(derivatives, self._value(student, g, draw)) * (len(g.x) / images) + constant


def _grouped(student: nn.Module, batches: Sequence[Batch]) -> list[Batch]:
    """Return the batches of the classes, with neighbouring classes joined as long as they fit one micro-batch.

    No class is split, so that the graph of its labels, which may be learned, is traversed once.
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
