"""Frequencies: each image is stored as the low coefficients of its cosine transform."""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor, nn

from ddsdk.foundation import require
from ddsdk.synthetic.base import Parametrization


def cosine_rows(n: int) -> Tensor:
    """Return the orthonormal DCT-II as a matrix, (n, n) float64: row k is sqrt(2/n) cos(pi (2i+1) k / 2n).

    Row 0 is divided by sqrt(2). Its transpose is its inverse.
    """
    i = torch.arange(n, dtype=torch.float64)
    rows = torch.cos(math.pi * (2 * i[None] + 1) * i[:, None] / (2 * n)) * math.sqrt(2 / n)
    rows[0] /= math.sqrt(2)
    return rows


@final
class Frequency(Parametrization):
    """One image for each slot, stored as the low frequencies of its orthonormal 2-d cosine transform.

    The coefficients that are kept are a rectangle of about sqrt(fraction) of each side from the lowest on, so
    fewer floats give smoother images and more slots for a budget. The transform is orthonormal: a learning rate
    means the same as for pixels, and fraction 1 stores what pixels store.

    Args:
        images: (M, C, H, W), encoded.
        fraction: Share of the coefficients that is stored, 0 < fraction <= 1.

    Raises:
        ValueError: If `images` is not a finite 4-d tensor, or `fraction` is out of range.

    References:
        Shin, Shin and Moon, "Frequency Domain-based Dataset Distillation", NeurIPS 2023, arXiv:2311.08819, choose
        the coefficients by their variance over the data; here they are the lowest ones.
    """

    def __init__(self, images: Tensor, fraction: float = 0.25) -> None:
        super().__init__()
        require(images.ndim == 4, "images", "have shape (M, C, H, W)", tuple(images.shape))
        require(0 < fraction <= 1, "fraction", "lie in 0 < fraction <= 1", fraction)
        self._shape = tuple(images.shape)
        for name, side in (("rows", self._shape[2]), ("columns", self._shape[3])):
            kept = max(1, round(side * math.sqrt(fraction)))
            # Not stored: they follow from the shape.
            self.register_buffer(name, cosine_rows(side)[:kept].to(images), persistent=False)
        self.rows: Tensor
        self.columns: Tensor
        kept_shape = (*self._shape[:2], len(self.rows), len(self.columns))
        self.coefficients = nn.Parameter(images.new_empty(kept_shape))
        self.encode(images)

    def encode(self, images: Tensor) -> None:
        """Store the low frequencies of `images`, (M, C, H, W): the nearest images that can be stored."""
        require(tuple(images.shape) == self._shape, "images", f"have shape {self._shape}", tuple(images.shape))
        require(bool(torch.isfinite(images).all()), "images", "be finite", "NaN or infinity")
        with torch.no_grad():
            self.coefficients.copy_(self.rows @ images.to(self.coefficients) @ self.columns.T)

    def decode(self, slots: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """Return the images at `slots`; nothing is random."""
        return self.rows.T @ self.coefficients[slots] @ self.columns, slots

    def project_(self) -> None:
        """Leave the coefficients as they are: all are admissible."""

    def stored_floats(self) -> int:
        """Return the number of coefficients."""
        return self.coefficients.numel()
