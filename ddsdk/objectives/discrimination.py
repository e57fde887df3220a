"""Discrimination: real images must be recognised by the class centres of the synthetic ones."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ddsdk.data import NO_AUGMENTATION, Augmentation, Batch, Draw, Source
from ddsdk.foundation import Checked, PositiveInt, derive
from ddsdk.objectives.byproducts import in_pieces, mean_embedding, stacked
from ddsdk.objectives.features import all_features
from ddsdk.synthetic import SyntheticView


@dataclass(frozen=True, kw_only=True)
class Discrimination(Checked):
    """Cross-entropy, summed over real images, of the inner products of their embeddings with synthetic class centres.

    The centre of a class is the mean embedding of its synthetic images. All centres take part in the loss of each
    real image; yet the graph of one class is held at a time: the gradient of the centres is taken first, and the
    term of a class is the inner product of its centre with that gradient, shifted to the loss of its real images.

    Attributes:
        real_batch: Real images of each class.
        augmentation: Augmentation with one siamese draw for all classes and both sides.

    Cost: one pass over the real images, and two over the synthetic ones, one of them with a graph.

    References:
        Wang et al., "CAFE", CVPR 2022, arXiv:2203.01531.
    """

    real_batch: PositiveInt = 256
    augmentation: Augmentation = NO_AUGMENTATION

    def __call__(self, student: nn.Module, real: Source, syn: SyntheticView, rng: torch.Generator) -> Iterator[Tensor]:
        """Yield one term for each class that has synthetic images."""
        draw = self.augmentation.siamese(derive(rng, "augmentation"))
        drawn = [syn.of_class(c, sys.maxsize, derive(rng, "synthetic", c)) for c in range(real.num_classes)]
        shown = {c: batch for c, batch in enumerate(drawn) if len(batch.x)}
        centres = torch.stack([in_pieces(mean_embedding, student, b, draw)[0] for b in shown.values()])
        centres.requires_grad_()
        with torch.enable_grad():
            losses = self._losses(student, real, list(shown), centres, draw, rng)
            (gradient,) = torch.autograd.grad(losses.sum(), centres)
        for i, (x, y) in enumerate(shown.values()):
            (centre,) = mean_embedding(student, Batch(draw(x), y), graph=True)
            pull = (centre * gradient[i]).sum()
            yield pull + (losses[i] - pull).detach()

    def _losses(
        self, student: nn.Module, real: Source, classes: list[int], centres: Tensor, draw: Draw, rng: torch.Generator
    ) -> Tensor:
        losses = []
        for i, c in enumerate(classes):
            batch = real.of_class(c, self.real_batch, derive(rng, "real", c))
            (features,) = stacked(all_features, student, batch, draw)
            wanted = torch.full((len(features),), i, device=features.device)
            losses.append(cross_entropy(features @ centres.T, wanted, reduction="sum"))
        return torch.stack(losses)
