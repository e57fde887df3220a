"""Walks over many images in pieces, and pixels as features."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import final

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from ddsdk.data.sources import Batch, RealData

_PIECE_VALUES, _MULTIPLE = 1 << 22, 32
FEATURE_VALUES = 1 << 24
"""Largest number of pixel values of images that are compared as features; more are averaged down."""

REDUCED_VALUES = 1 << 22
"""Largest number of features after the averaging."""


@final
class ImageRows:
    """Images of real data at some positions, in the value space, which are read on access.

    Args:
        real: Real data in memory or on disk.
        index: Positions of the images in the data, (N,) int64.

    Examples:
        >>> import ddsdk, torch
        >>> rows = ddsdk.data.ImageRows(ddsdk.load("digits"), torch.arange(100))
        >>> len(rows), rows[torch.tensor([7, 2])].shape
        (100, torch.Size([2, 1, 8, 8]))
    """

    def __init__(self, real: RealData, index: Tensor) -> None:
        self.real = real
        self.index = index.cpu()

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.index)

    def __getitem__(self, positions: Tensor) -> Tensor:
        """Return the images at `positions`, (B,) int64 in 0..N-1, as a tensor (B, C, H, W)."""
        return self.real.batch(self.index[positions.cpu()]).x


def positions_in_pieces(n: int, values: int) -> tuple[Tensor, ...]:
    """Return the positions 0..n-1 in pieces of at most 16 MiB of floats, for images of `values` pixel values each."""
    size = max(1, _PIECE_VALUES // values)
    # A multiple of the micro-batches in which networks compute, so that pieces change no result.
    return torch.split(torch.arange(n), size - size % _MULTIPLE if size > _MULTIPLE else size)


def map_in_pieces(real: RealData, index: Tensor, function: Callable[[Batch], Tensor]) -> Tensor:
    """Return the rows of a function of images and labels, which are read and computed in pieces.

    Args:
        real: Real data in memory or on disk.
        index: Positions of the images in the data, (N,) int64.
        function: Function from a batch of B images to a tensor (B, ...).

    Examples:
        >>> import ddsdk, torch
        >>> real = ddsdk.load("digits")
        >>> ddsdk.data.map_in_pieces(real, torch.arange(100), lambda batch: batch.x.mean((1, 2, 3))).shape
        torch.Size([100])
    """
    first, *rest = positions_in_pieces(len(index), math.prod(real.image_shape))
    values = function(real.batch(index[first]))
    # One tensor for all rows: small tensors that lie between freed pieces would keep the memory of these from reuse.
    rows = values.new_empty((len(index), *values.shape[1:]))
    rows[: len(first)] = values
    del values
    for part in rest:
        rows[part.to(rows.device)] = function(real.batch(index[part]))
    return rows


def pixel_features(real: RealData, index: Tensor) -> Tensor:
    """Return the pixels of images in the value space as features, (N, F).

    If the images have more than 2^24 pixel values together, each image is averaged over squares of f x f pixels, with
    the smallest f that gives at most 2^22 features. 1000 images of 224 x 224 pixels in colour have features of 32 x 32
    pixels; 5000 images of 32 x 32 pixels keep theirs. Clustering in float64 takes 20 bytes for each feature.

    Args:
        real: Real data in memory or on disk.
        index: Positions of the images in the data, (N,) int64.
    """
    channels, height, width = real.image_shape
    planes = len(index) * channels
    if planes * height * width <= FEATURE_VALUES:
        return map_in_pieces(real, index, lambda batch: batch.x.flatten(1))
    factor = 2
    while factor < max(height, width) and planes * -(-height // factor) * -(-width // factor) > REDUCED_VALUES:
        factor += 1
    return map_in_pieces(real, index, lambda batch: avg_pool2d(batch.x, factor, ceil_mode=True).flatten(1))
