"""Distances between byproducts: pure functions of two tuples of tensors, zero for equal tuples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from ddsdk.foundation import CheckedDataclass, NonNegativeFloat

Distance = Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor]
"""`(synthetic, real) -> scalar`, differentiable with respect to both."""


def squared(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Return the sum of squared differences."""
    return _total((x - y).square().sum() for x, y in zip(a, b, strict=True))


def absolute(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Return the sum of absolute differences."""
    return _total((x - y).abs().sum() for x, y in zip(a, b, strict=True))


def cosine(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Return 1 - the cosine of the two tuples, each as one long vector."""
    return 1 - dot(a, b) / (_norm(a) * _norm(b) + 1e-6)


def filter_cosine(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Return the sum over tensors and output filters of 1 - the cosine of two filters: the distance of DC.

    A convolution weight (O, I, h, w) and a linear weight (O, I) both have O filters: their rows.

    References:
        Zhao, Mopuri and Bilen, ICLR 2021, arXiv:2006.05929, eq. 10. The denominator carries 1e-6 as in the paper's
        code, so that a filter without gradient counts 1 and not NaN.

    Examples:
        >>> import torch
        >>> from ddsdk.objectives import filter_cosine
        >>> round(filter_cosine([torch.eye(3)], [-torch.eye(3)]).item(), 3)
        6.0
    """
    return _total(_row_cosines(x.flatten(1), y.flatten(1)) for x, y in zip(a, b, strict=True))


@final
@dataclass(frozen=True)
class FilterGap(CheckedDataclass):
    """The angle and the Euclidean distance between filters: `filter_cosine` + weight * sum of ||a_i - b_i||.

    A cosine alone ignores the lengths of the gradients.

    Attributes:
        weight: Weight of the Euclidean distances, at least 0; 0 leaves `filter_cosine`.

    References:
        Jiang et al., "Delving into Effective Gradient Matching for Dataset Condensation", arXiv:2208.00311.

    Examples:
        >>> import torch
        >>> from ddsdk.objectives import FilterGap
        >>> round(FilterGap(weight=1.0)([torch.eye(3)], [3 * torch.eye(3)]).item(), 3)
        6.0
    """

    weight: NonNegativeFloat = 1.0

    def __call__(self, a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
        """Return the distance of two tuples of tensors."""
        gaps = _total((x - y).flatten(1).norm(dim=1).sum() for x, y in zip(a, b, strict=True))
        return filter_cosine(a, b) + self.weight * gaps


def dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Return the inner product of the two tuples, each as one long vector."""
    return _total((x * y).sum() for x, y in zip(a, b, strict=True))


def _row_cosines(x: Tensor, y: Tensor) -> Tensor:
    # torch.norm has a zero subgradient at zero; sqrt of a sum of squares would have NaN.
    norms = x.norm(dim=1) * y.norm(dim=1)
    gap: Tensor = 1 - (x * y).sum(1) / (norms + 1e-6)
    return gap.sum()


def _norm(tensors: Iterable[Tensor]) -> Tensor:
    # A norm of norms has a zero subgradient at zero; sqrt of a sum of squares would have NaN.
    norm: Tensor = torch.stack([t.norm() for t in tensors]).norm()
    return norm


def _total(terms: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(terms)).sum()
