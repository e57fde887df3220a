"""Distances between distributions of features: weighted layers, a kernel discrepancy, characteristic functions.

Pure functions of two byproducts, zero where these are equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from ddsdk.foundation import Checked, NonNegativeFloat, require, require_rate


@final
@dataclass(frozen=True)
class LayerSquares:
    """The sum of squared differences, each tensor with a weight of its own.

    Attributes:
        weights: Weights of the last tensors; those before them take the first, so that deeper networks need no others.
    """

    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        sound = len(self.weights) > 0 and all(w >= 0 for w in self.weights)
        require(sound, "weights", "be at least one number, none negative", self.weights)

    def __call__(self, a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
        """Return the weighted sum."""
        weights = (self.weights[0],) * (len(a) - len(self.weights)) + self.weights[-len(a) :]
        terms = [w * (x - y).square().sum() for w, x, y in zip(weights, a, b, strict=True)]
        return torch.stack(terms).sum()


@final
@dataclass(frozen=True)
class GaussianMMD:
    """The squared maximum mean discrepancy of two samples under Gaussian kernels, in units of squared distance.

    With k_h(x, y) = exp(-|x - y|^2 / 2h), this is the mean over h of h (E k_h(a, a') + E k_h(b, b') - 2 E k_h(a, b)).
    A kernel compares all moments; the factor h turns the limit of a wide kernel into |E a - E b|^2, DM's distance, so
    that learning rates of the same size serve. Each h is a multiple of the mean squared distance of all pairs, which is
    taken as a constant. Equal samples are at distance zero (pairs of an item with itself count).

    Attributes:
        scales: Multiples of the mean squared distance, each > 0.

    Cost: (N + M)^2 kernel values for samples of N and M.

    References:
        Gretton et al., "A Kernel Two-Sample Test", JMLR 2012.
    """

    scales: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0, 4.0)

    def __post_init__(self) -> None:
        require(len(self.scales) > 0, "scales", "hold at least one number", self.scales)
        for scale in self.scales:
            require_rate("scales", scale)

    def __call__(self, a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
        """Return the sum over the pairs of samples (N, F) and (M, F)."""
        return torch.stack([self._discrepancy(x, y) for x, y in zip(a, b, strict=True)]).sum()

    def _discrepancy(self, x: Tensor, y: Tensor) -> Tensor:
        # Small distances between long vectors lose their digits; those between centred ones do not.
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
class CharacteristicDistance(Checked):
    """The mean over frequencies of sqrt(amplitude gap + phase term) of two characteristic functions p and q.

    sqrt(amplitude (|p| - |q|)^2 + phase 2 |p| |q| (1 - cos(arg p - arg q))). Equal weights w give sqrt(w) |p - q|: the
    amplitude is the spread of the features, the phase their place.

    Attributes:
        amplitude: Weight of the amplitude gap.
        phase: Weight of the phase term.

    References:
        Wang et al., "NCFM", CVPR 2025, arXiv:2502.20653.
    """

    amplitude: NonNegativeFloat = 0.5
    phase: NonNegativeFloat = 0.5

    def __call__(self, a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
        """Return the distance of (cosines, sines) from (cosines, sines), (T,) each."""
        p, q = torch.stack(list(a)), torch.stack(list(b))
        # A norm has a zero subgradient at zero, where a root of squares gives NaN.
        gap = (p.norm(dim=0) - q.norm(dim=0)).square()
        turned = (p - q).square().sum(0) - gap
        # The mask is the same rule for the outer root; rounding can leave `turned` below zero.
        total = self.amplitude * gap + self.phase * turned.clamp_min(0)
        distance: Tensor = total.clamp_min(torch.finfo(p.dtype).tiny).sqrt().mean()
        return distance


def _squared_distances(x: Tensor, y: Tensor) -> Tensor:
    squares = x.square().sum(1)[:, None] + y.square().sum(1)[None, :]
    return (squares - 2 * x @ y.T).clamp_min(0)
