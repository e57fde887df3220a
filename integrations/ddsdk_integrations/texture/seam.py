"""Does an image continue where it begins?"""

from __future__ import annotations

import torch
from torch import Tensor

from ddsdk.foundation import require, require_count


def seam_scores(images: Tensor) -> Tensor:
    """Return the mean step across the wrap edge over the mean step inside, (M, 2): of rows, and of columns.

    A step is the absolute difference of neighbouring pixels. 1 is seamless; above, the edge shows as a line; below, it
    shows as a dull stripe, because pixels near it hardly took part. Both directions count: 0 is as bad as 2.

    Args:
        images: (M, C, H, W) with sides of at least 3 pixels; no scale is assumed.

    Raises:
        ValueError: If the images are too small, or an image is flat, for which the question means nothing.
    """
    require(images.ndim == 4 and min(images.shape[2:]) >= 3, "images", "be 3 pixels wide", tuple(images.shape))
    found = []
    for side in (2, 3):
        step = (images - images.roll(1, side)).abs().double().mean(tuple({1, 2, 3} - {side}))
        inside = step[:, 1:].mean(1)
        require(bool((inside > 0).all()), "images", "not be flat", inside.tolist())
        found.append(step[:, 0] / inside)
    return torch.stack(found, 1)


def tiled(images: Tensor, repeat: int = 3) -> Tensor:
    """Return images (M, C, H, W) beside and below themselves, (M, C, repeat H, repeat W)."""
    require_count("repeat", repeat)
    return images.repeat(1, 1, repeat, repeat)
