"""ZCA whitening and its inverse."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ddsdk.foundation import require

_CHUNK = 4096


@dataclass(frozen=True, eq=False)
class Whitening:
    """Zero-phase component analysis, W = U (S + eps)^-1/2 U^T, of flattened images.

    Attributes:
        mean: Mean image, (D,) with D = C*H*W.
        basis: Eigenvectors U of the covariance in columns, (D, D).
        eigenvalues: S, (D,), never negative.
        eps: Added to every eigenvalue, > 0.

    References:
        Krizhevsky, Learning multiple layers of features from tiny images, 2009, appendix A.
    """

    mean: Tensor
    basis: Tensor
    eigenvalues: Tensor
    eps: float

    def __post_init__(self) -> None:
        d = self.mean.numel()
        shapes = tuple(self.mean.shape), tuple(self.basis.shape), tuple(self.eigenvalues.shape)
        require(shapes == ((d,), (d, d), (d,)), "whitening", "hold tensors (D,), (D, D) and (D,)", shapes)
        for name in ("mean", "basis", "eigenvalues"):
            t = getattr(self, name)
            require(t.is_floating_point(), name, "be floating point", t.dtype)
            require(bool(torch.isfinite(t).all()), name, "be finite", "NaN or infinity")
        require(bool((self.eigenvalues >= 0).all()), "eigenvalues", "be >= 0", float(self.eigenvalues.min()))
        require(math.isfinite(self.eps) and self.eps > 0, "eps", "be positive and finite", self.eps)

    @classmethod
    def fit(cls, images: Tensor, eps: float) -> Whitening:
        """Fit mean and covariance (divided by N - 1) of `images`, (N, C, H, W), in float64."""
        require(len(images) >= 2, "images", "be at least 2 to be whitened", len(images))
        flat = images.flatten(1)
        mean = flat.mean(0, dtype=torch.float64)
        covariance = torch.zeros(len(mean), len(mean), dtype=torch.float64, device=flat.device)
        for rows in torch.split(flat, _CHUNK):
            centred = rows.double() - mean
            covariance.addmm_(centred.T, centred)
        values, basis = torch.linalg.eigh(covariance / (len(flat) - 1))
        return cls(mean.float().cpu(), basis.float().cpu(), values.clamp(min=0).float().cpu(), float(eps))

    def __call__(self, images: Tensor) -> Tensor:
        """Whiten images (..., C, H, W)."""
        flat = images.flatten(-3) - self.mean.to(images)
        return self._scale(flat, (self.eigenvalues + self.eps).rsqrt()).reshape(images.shape)

    def inverse(self, images: Tensor) -> Tensor:
        """Undo the whitening of images (..., C, H, W)."""
        flat = self._scale(images.flatten(-3), (self.eigenvalues + self.eps).sqrt())
        return (flat + self.mean.to(images)).reshape(images.shape)

    def _scale(self, flat: Tensor, factors: Tensor) -> Tensor:
        # Two thin products cost less than forming W, whose side is 3072 for 32x32 colour images.
        basis = self.basis.to(flat)
        return (flat @ basis) * factors.to(flat) @ basis.T
