"""Discrimination loss of CAFE: the class centres of the synthetic set classify real images."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ddsdk.data import NO_AUGMENTATION, Augmentation, Batch, Draw, Source
from ddsdk.foundation import CheckedDataclass, PositiveInt, derive
from ddsdk.objectives.byproducts import in_micro_batches, mean_embedding, stacked
from ddsdk.objectives.features import all_features
from ddsdk.synthetic import SyntheticView


@dataclass(frozen=True, kw_only=True)
class Discrimination(CheckedDataclass):
    """Cross-entropy, summed over real images, of the inner products of their embeddings with synthetic class centres.

    The centre of a class is the mean embedding of its synthetic images. The loss of a real image depends on all
    centres; yet only the graph of one class is in memory. The gradient by the centres is computed first. The term of a
    class is the inner product of its centre with its gradient, plus a constant that makes the value of the term equal
    to the loss of the real images of this class.

    Attributes:
        real_batch: Real images of each class in one step.
        augmentation: Siamese augmentation with one draw for all classes and both sides.

    Cost: one pass over the real images and two over the synthetic images, one of them with a graph.

    References:
        Wang et al., "CAFE", CVPR 2022, arXiv:2203.01531.

    Examples:
        >>> import dataclasses, ddsdk
        >>> from ddsdk.objectives import Discrimination
        >>> swap = lambda plan: dataclasses.replace(plan, objective=Discrimination(real_batch=8))
        >>> len(ddsdk.distill(ddsdk.DM(ipc=1, steps=2), ddsdk.load("digits"), transform=swap))
        10
    """

    real_batch: PositiveInt = 256
    augmentation: Augmentation = NO_AUGMENTATION

    def __call__(self, student: nn.Module, real: Source, syn: SyntheticView, rng: torch.Generator) -> Iterator[Tensor]:
        """Yield one term for each class that has synthetic images."""
        draw = self.augmentation.siamese(derive(rng, "augmentation"))
        batches = [syn.of_class(c, sys.maxsize, derive(rng, "synthetic", c)) for c in range(real.num_classes)]
        synthetic = {c: batch for c, batch in enumerate(batches) if len(batch.x)}
        centres = torch.stack([in_micro_batches(mean_embedding, student, b, draw)[0] for b in synthetic.values()])
        centres.requires_grad_()
        with torch.enable_grad():
            losses = self._losses(student, real, list(synthetic), centres, draw, rng)
            (gradient,) = torch.autograd.grad(losses.sum(), centres)
        for i, (x, y) in enumerate(synthetic.values()):
            (centre,) = mean_embedding(student, Batch(draw(x), y), graph=True)
            product = (centre * gradient[i]).sum()
            yield product + (losses[i] - product).detach()

    def _losses(
        self, student: nn.Module, real: Source, classes: list[int], centres: Tensor, draw: Draw, rng: torch.Generator
    ) -> Tensor:
        losses = []
        for i, c in enumerate(classes):
            batch = real.of_class(c, self.real_batch, derive(rng, "real", c))
            (features,) = stacked(all_features, student, batch, draw)
            labels = torch.full((len(features),), i, device=features.device)
            losses.append(cross_entropy(features @ centres.T, labels, reduction="sum"))
        return torch.stack(losses)
