"""Labels in closed form: those with which the images of a set predict real data best."""

from __future__ import annotations

import torch
from torch import Tensor

from ddsdk.data import RealData
from ddsdk.synthetic.labels import FixedLabels
from ddsdk.synthetic.set import SyntheticSet
from ddsdk.training import Kernel, Ridge, pieces, solve_labels

_AT_ONCE = 1000


@torch.no_grad()
def label_solved(syn: SyntheticSet, kernel: Kernel, real: RealData, ridge: Ridge, rng: torch.Generator) -> SyntheticSet:
    """Return the set with the labels of least squares over all real images, where kernel ridge regression predicts.

    Targets are centred, y - 1/K. See `ddsdk.training.solve_labels`.

    Args:
        syn: A set with one image for each slot; images, class slots and learned rate are shared with the new one.
        kernel: Compares images.
        real: All of it is read, 1000 images at a time.
        ridge: Of the regression.
        rng: For stochastic decoders.

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
