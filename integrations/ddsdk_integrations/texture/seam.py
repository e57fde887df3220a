"""Seam score: strength of the edge where an image meets its own copy."""

from __future__ import annotations

import torch
from torch import Tensor

from ddsdk.foundation import require, require_count


def seam_scores(images: Tensor) -> Tensor:
    """Return the seam score of each image for rows and for columns, (M, 2).

    It is the mean step across the wrap edge over the mean step inside, where a step is the absolute difference of
    neighbouring pixels. At 1 the image is seamless. Above 1 the edge is visible as a line. Below 1 it is visible as a
    dull stripe, because few windows covered its pixels: 0 is as bad as 2.

    Args:
        images: Images of any range, (M, C, H, W), with sides of 3 pixels or more; a constant image raises ValueError.

    Examples:
        >>> import torch
        >>> from ddsdk_integrations.texture import seam_scores
        >>> seam_scores(torch.rand(4, 1, 8, 8)).shape
        torch.Size([4, 2])
    """
    size_ok = images.ndim == 4 and min(images.shape[2:]) >= 3
    require(size_ok, "images", "have shape (M, C, H, W) with sides of 3 pixels or more", tuple(images.shape))
    scores = []
    for side in (2, 3):
        step = (images - images.roll(1, side)).abs().double().mean(tuple({1, 2, 3} - {side}))
        inside = step[:, 1:].mean(1)
        require(bool((inside > 0).all()), "images", "not be constant, which has no seam score", inside.tolist())
        scores.append(step[:, 0] / inside)
    return torch.stack(scores, 1)


def repeat_tiles(images: Tensor, repeat: int = 3) -> Tensor:
    """Return images (M, C, H, W) repeated in both directions, (M, C, repeat H, repeat W).

    Examples:
        >>> import torch
        >>> from ddsdk_integrations.texture import repeat_tiles
        >>> repeat_tiles(torch.rand(4, 1, 8, 8), repeat=2).shape
        torch.Size([4, 1, 16, 16])
    """
    require_count("repeat", repeat)
    return images.repeat(1, 1, repeat, repeat)
