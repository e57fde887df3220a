"""New labels of a finished set: those of a teacher, or those with which its images predict real data best."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ddsdk.data import RealData
from ddsdk.synthetic.labels import FixedLabels
from ddsdk.synthetic.set import SyntheticSet
from ddsdk.training import Kernel, Ridge, pieces, probabilities, solve_labels

_AT_ONCE = 1000


@torch.no_grad()
def relabelled(
    syn: SyntheticSet, teacher: nn.Module, rng: torch.Generator, *, temperature: float = 1.0
) -> SyntheticSet:
    """Return the set with stored teacher labels: softmax(teacher(x) / temperature), one row for each slot.

    These are labels of the images as they are stored. Rows for each augmented view (FKD), and a teacher that labels
    every batch while a network trains, are not offered. A slot with several images has the mean of their rows.

    Args:
        syn: Set whose images, class slots and learned rate are shared with the new one; its labels are not read.
        teacher: Network from (B, C, H, W) to logits (B, K).
        rng: Root of stochastic decoders.
        temperature: Temperature of the softmax, above 1 for softer labels.
    """
    images, owners = syn.parametrization.decode(torch.arange(len(syn)).to(syn.device), rng)
    rows = probabilities(teacher, images, temperature)
    total = rows.new_zeros(len(syn), rows.shape[1]).index_add_(0, owners, rows)
    labels = FixedLabels(total / torch.bincount(owners, minlength=len(syn))[:, None])
    return SyntheticSet(syn.parametrization, labels, syn.classes, syn.num_classes, syn.rate)


@torch.no_grad()
def label_solved(syn: SyntheticSet, kernel: Kernel, real: RealData, ridge: Ridge, rng: torch.Generator) -> SyntheticSet:
    """Return the set with the labels of least squares over all real images, where kernel ridge regression predicts.

    Targets are centred, y - 1/K. See `ddsdk.training.solve_labels`.

    Args:
        syn: Set with one image for each slot; images, class slots and learned rate are shared with the new one.
        kernel: Kernel of the regression.
        real: Real data, all of which is read, 1000 images at a time.
        ridge: Ridge of the regression.
        rng: Root of stochastic decoders.

    References:
        Nguyen, Chen and Lee, "Dataset Meta-Learning from Kernel Ridge-Regression", ICLR 2021, arXiv:2011.00050.
    """
    images = syn.detached(rng).x

    def read(part: slice) -> tuple[Tensor, Tensor]:
        x, y = real.batch(torch.arange(len(real))[part])
        return kernel(x, images), y.double() - 1 / real.num_classes

    parts = (read(part) for part in pieces(len(real), _AT_ONCE))
    rows = solve_labels(kernel(images, images), parts, ridge).values
    labels = FixedLabels(rows.float(), space="scores")
    return SyntheticSet(syn.parametrization, labels, syn.classes, syn.num_classes, syn.rate, syn.scale)
