"""Codec of images as a few quantised coefficients of the discrete cosine transform."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, final

import torch
from torch import Tensor

from ddsdk.artefact.codecs import Packed, RowCodec
from ddsdk.foundation import CheckedDataclass, PositiveFloat, PositiveInt, require
from ddsdk.synthetic import cosines, lowest_frequencies

_LARGEST = 127
"""Largest magnitude of a quantised coefficient."""
# Less than the 0.5 of the nearest level: small numbers take fewer bits, so that the step can be finer and the error at
# an equal number of bytes is smaller.
_ROUNDING = 0.35


@final
@dataclass(frozen=True)
class Cosine(CheckedDataclass, RowCodec):
    """The lowest frequencies of each image as multiples of a step, one signed byte each.

    The orthonormal cosine transform (DCT-II) runs over channels, height and width, after 0.5 has been subtracted from
    the unit range. Its first channel is the brightness, the others are colour differences. Values outside the unit
    range are kept. Coefficients beyond 127 steps are clipped, which an average brightness reaches only with steps below
    0.004 times the square root of C*H*W.

    Attributes:
        height: Number of rows of pixels of an image.
        width: Number of columns of pixels of an image.
        kept: Number of frequencies of each channel, the lowest ones in zigzag order.
        step: Distance of two neighbouring levels of a coefficient, in the unit range. A coefficient is wrong by at most
            0.65 steps, and one that is left out by its value.

    Examples:
        >>> import torch
        >>> from ddsdk.artefact import Cosine
        >>> codec = Cosine(height=8, width=8, kept=10, step=0.1)
        >>> packed = codec.pack(torch.rand(4, 1, 8, 8))
        >>> tuple(packed["coefficients"].shape), tuple(codec.unpack(packed).shape)
        ((4, 1, 10), (4, 1, 8, 8))
    """

    height: PositiveInt
    width: PositiveInt
    kept: PositiveInt = 49
    step: PositiveFloat = 0.1
    name: ClassVar[str] = "cosine"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.kept <= self.height * self.width, "kept", "not exceed the number of pixels", self.kept)

    def layout(self, shape: tuple[int, int, int]) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        """Return one row of signed bytes for each channel. Images of other sides than the codec's are refused."""
        require(shape[1:] == (self.height, self.width), "shape", f"end in {self.height}, {self.width}", shape)
        return {"coefficients": (torch.int8, (shape[0], self.kept))}

    @classmethod
    def least_step(cls, items: Tensor) -> float:
        """Return the smallest step by which no coefficient of images (M, C, H, W) is clipped."""
        return float(_frequencies(items).abs().max()) / _LARGEST

    def pack(self, items: Tensor) -> Packed:
        """Return the coefficients as multiples of the step, rounded towards zero below 0.65 of a step."""
        lowest = _frequencies(items).flatten(2)[:, :, lowest_frequencies(self.height, self.width)[: self.kept]]
        return {"coefficients": _rounded(lowest / self.step).to(torch.int8)}

    def unpack(self, packed: Packed) -> Tensor:
        """Return the inverse transform of the coefficients, with zeros for the frequencies that are left out."""
        kept = packed["coefficients"].float() * self.step
        frequencies = kept.new_zeros(*kept.shape[:2], self.height * self.width)
        frequencies[:, :, lowest_frequencies(self.height, self.width)[: self.kept]] = kept
        planes = frequencies.reshape(*kept.shape[:2], self.height, self.width)
        images = transform(self.height).T @ planes @ transform(self.width)
        return torch.einsum("dc,ndhw->nchw", transform(kept.shape[1]), images) + 0.5


def _rounded(levels: Tensor) -> Tensor:
    return (levels.sign() * (levels.abs() + _ROUNDING).floor()).clamp(-_LARGEST, _LARGEST)


def _frequencies(items: Tensor) -> Tensor:
    mixed = torch.einsum("dc,nchw->ndhw", transform(items.shape[1]), items - 0.5)
    return transform(items.shape[2]) @ mixed @ transform(items.shape[3]).T


@lru_cache(maxsize=32)
def transform(size: int) -> Tensor:
    """Return the orthonormal matrix of the cosine transform (DCT-II) of vectors of a length, float32."""
    matrix = cosines(size)
    matrix[0] /= math.sqrt(2)
    return matrix.float()
