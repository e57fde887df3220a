"""Distances between distributions of features: weighted layers, a kernel discrepancy, characteristic functions.

Each is a pure function of two byproducts, zero for equal byproducts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from ddsdk.foundation import CheckedDataclass, NonNegativeFloat, require, require_positive


@final
@dataclass(frozen=True)
class LayerSquares:
    """The weighted sum over tensors, such as the layers of a network, of the squared differences.

    Attributes:
        weights: Weights of the last tensors, none negative. Earlier tensors have the first weight, so that the same
            weights serve for deeper networks.

    Examples:
        >>> import torch
        >>> from ddsdk.objectives import LayerSquares
        >>> LayerSquares((1.0, 10.0))([torch.ones(3)] * 2, [torch.zeros(3)] * 2).item()
        33.0
    """

    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        valid = len(self.weights) > 0 and all(w >= 0 for w in self.weights)
        require(valid, "weights", "be at least one number, none negative", self.weights)

    def __call__(self, a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
        """Return the weighted sum over the pairs of tensors."""
        weights = (self.weights[0],) * (len(a) - len(self.weights)) + self.weights[-len(a) :]
        terms = [w * (x - y).square().sum() for w, x, y in zip(weights, a, b, strict=True)]
        return torch.stack(terms).sum()


@final
@dataclass(frozen=True)
class GaussianMMD:
    """The squared maximum mean discrepancy of two samples under Gaussian kernels, in units of squared distance.

    With k_h(x, y) = exp(-|x - y|^2 / 2h), this is the mean over h of h (E k_h(a, a') + E k_h(b, b') - 2 E k_h(a, b)).
    The kernel compares all moments. With the factor h, the limit of a wide kernel is |E a - E b|^2, the distance of DM,
    so that learning rates of DM apply. Each h is a multiple of the mean squared distance of all pairs, which is a
    constant in the gradient. The means include the pairs of an item with itself, so that equal samples have distance
    zero.

    Attributes:
        scales: Multiples of the mean squared distance, one for each h, each > 0.

    Cost: (N + M)^2 kernel values for samples of N and M items.

    References:
        Gretton et al., "A Kernel Two-Sample Test", JMLR 2012.

    Examples:
        >>> import torch
        >>> from ddsdk.objectives import GaussianMMD
        >>> GaussianMMD()([torch.eye(3)], [torch.eye(3)]).item()
        0.0
    """

    scales: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0, 4.0)

    def __post_init__(self) -> None:
        require(len(self.scales) > 0, "scales", "hold at least one number", self.scales)
        for scale in self.scales:
            require_positive("scales", scale)

    def __call__(self, a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
        """Return the sum over pairs of samples, (N, F) and (M, F)."""
        return torch.stack([self._discrepancy(x, y) for x, y in zip(a, b, strict=True)]).sum()

    def _discrepancy(self, x: Tensor, y: Tensor) -> Tensor:
        # Centred vectors keep the digits of small distances, which |x|^2 + |y|^2 - 2 x.y loses for long vectors.
        centre = y.detach().mean(0)
        x, y = x - centre, y - centre
        xx, yy, xy = _squared_distances(x, x), _squared_distances(y, y), _squared_distances(x, y)
        n, m = len(x), len(y)
        mean = (xx.detach().sum() + yy.detach().sum() + 2 * xy.detach().sum()) / (n + m) ** 2
        terms = []
        for scale in self.scales:
            h = (scale * mean).clamp_min(torch.finfo(x.dtype).tiny)
            kernels = [(-d / (2 * h)).exp().mean() for d in (xx, yy, xy)]
            terms.append(h * (kernels[0] + kernels[1] - 2 * kernels[2]))
        return torch.stack(terms).mean()


@final
@dataclass(frozen=True, kw_only=True)
class CharacteristicDistance(CheckedDataclass):
    """The mean over frequencies of sqrt(amplitude gap + phase term) of two characteristic functions p and q.

    sqrt(amplitude (|p| - |q|)^2 + phase 2 |p| |q| (1 - cos(arg p - arg q))). Equal weights w give sqrt(w) |p - q|. The
    amplitude depends on the spread of the features, the phase on their location.

    Attributes:
        amplitude: Weight of the amplitude gap, at least 0.
        phase: Weight of the phase term, at least 0.

    References:
        Wang et al., "NCFM", CVPR 2025, arXiv:2502.20653.

    Examples:
        >>> import torch
        >>> from ddsdk.objectives import CharacteristicDistance
        >>> p, q = (torch.ones(8), torch.zeros(8)), (torch.zeros(8), torch.ones(8))
        >>> round(CharacteristicDistance(amplitude=0.5, phase=0.5)(p, q).item(), 3)
        1.0
    """

    amplitude: NonNegativeFloat = 0.5
    phase: NonNegativeFloat = 0.5

    def __call__(self, a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
        """Return the distance of two pairs (mean cosines, mean sines), (T,) each."""
        p, q = torch.stack(list(a)), torch.stack(list(b))
        # torch.norm has a zero subgradient at zero; sqrt of a sum of squares would have NaN.
        gap = (p.norm(dim=0) - q.norm(dim=0)).square()
        # |p - q|^2 = (|p| - |q|)^2 + 2 |p| |q| (1 - cos(arg p - arg q)); rounding can make the difference negative.
        phase_term = (p - q).square().sum(0) - gap
        total = self.amplitude * gap + self.phase * phase_term.clamp_min(0)
        # The clamp gives the outer root a zero gradient at zero.
        distance: Tensor = total.clamp_min(torch.finfo(p.dtype).tiny).sqrt().mean()
        return distance


def _squared_distances(x: Tensor, y: Tensor) -> Tensor:
    squares = x.square().sum(1)[:, None] + y.square().sum(1)[None, :]
    return (squares - 2 * x @ y.T).clamp_min(0)
