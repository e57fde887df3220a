"""New labels of a finished set: those of a teacher, or the solution of kernel ridge regression on real data."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ddsdk.data import RealData
from ddsdk.synthetic.labels import FixedLabels
from ddsdk.synthetic.set import SyntheticSet
from ddsdk.training import Kernel, Ridge, pieces, probabilities, solve_labels

_CHUNK = 1000


@torch.no_grad()
def with_teacher_labels(
    syn: SyntheticSet, teacher: nn.Module, rng: torch.Generator, *, temperature: float = 1.0
) -> SyntheticSet:
    """Return the set with stored teacher labels: softmax(teacher(x) / temperature), one row for each slot.

    The teacher labels the stored images. Rows for each augmented view (FKD), and a teacher that labels batches during
    training, are not offered. A slot with several images has the mean of their rows.

    Args:
        syn: Set whose images, classes and learned rate are shared with the result; its labels are not used.
        teacher: Network from images (B, C, H, W) to logits (B, K).
        rng: Generator of stochastic decoders.
        temperature: Temperature of the softmax, above 1 for softer labels.

    Examples:
        >>> import ddsdk
        >>> real, rng = ddsdk.load("digits"), ddsdk.generator(0)
        >>> syn = ddsdk.recipes.pixel_set(real, 1, "real", rng)
        >>> teacher = ddsdk.network_factory("convnet", real.image_shape, 10, width=4)(rng)
        >>> tuple(ddsdk.synthetic.with_teacher_labels(syn, teacher, rng).detached(rng).y.shape)
        (10, 10)
    """
    images, owners = syn.parametrization.decode(torch.arange(len(syn)).to(syn.device), rng)
    rows = probabilities(teacher, images, temperature)
    total = rows.new_zeros(len(syn), rows.shape[1]).index_add_(0, owners, rows)
    labels = FixedLabels(total / torch.bincount(owners, minlength=len(syn))[:, None])
    return SyntheticSet(syn.parametrization, labels, syn.classes, syn.num_classes, syn.rate)


@torch.no_grad()
def with_solved_labels(
    syn: SyntheticSet, kernel: Kernel, real: RealData, ridge: Ridge, rng: torch.Generator
) -> SyntheticSet:
    """Return the set with the labels that minimise the squared error of kernel ridge regression on all real images.

    Targets are centred, y - 1/K. See `ddsdk.training.solve_labels`.

    Args:
        syn: Set with one image for each slot; images, classes and learned rate are shared with the result.
        kernel: Kernel between two batches of images, see `ddsdk.training.Kernel`.
        real: Real data, all of which is used, 1000 images at a time.
        ridge: Ridge of the regression, see `ddsdk.training.Ridge`.
        rng: Generator of stochastic decoders.

    References:
        Nguyen, Chen and Lee, "Dataset Meta-Learning from Kernel Ridge-Regression", ICLR 2021, arXiv:2011.00050.

    Examples:
        >>> import ddsdk
        >>> real, rng = ddsdk.load("digits"), ddsdk.generator(0)
        >>> syn = ddsdk.recipes.pixel_set(real, 1, "real", rng)
        >>> kernel, ridge = ddsdk.training.FullyConnectedNTK(depth=1), ddsdk.training.Ridge(rule="trace", strength=1e-6)
        >>> ddsdk.synthetic.with_solved_labels(syn, kernel, real, ridge, rng).labels.space
        'scores'
    """
    images = syn.detached(rng).x

    def gram_and_targets(part: slice) -> tuple[Tensor, Tensor]:
        x, y = real.batch(torch.arange(len(real))[part])
        return kernel(x, images), y.double() - 1 / real.num_classes

    chunks = (gram_and_targets(part) for part in pieces(len(real), _CHUNK))
    rows = solve_labels(kernel(images, images), chunks, ridge).values
    labels = FixedLabels(rows.float(), space="scores")
    return SyntheticSet(syn.parametrization, labels, syn.classes, syn.num_classes, syn.rate, syn.scale)
