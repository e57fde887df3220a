"""Random resized crops, and selection of the crops with the lowest scores, as in RDED."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from ddsdk.data.rows import positions_in_pieces
from ddsdk.foundation import derive, require, require_count

_MAX_ASPECT_RATIO = 4 / 3


class Croppable(Protocol):
    """Images (n, C, H, W) that are read at positions: a tensor, or `ddsdk.data.ImageRows`."""

    def __len__(self) -> int:
        """Return the number of images."""
        ...

    def __getitem__(self, positions: Tensor, /) -> Tensor:
        """Return the images at `positions`, (B,) int64, as a tensor (B, C, H, W)."""
        ...


def random_boxes(n: int, rng: torch.Generator, *, smallest: float = 0.5) -> Tensor:
    """Return random boxes inside an image, (n, 4): top, left, height and width as fractions of the sides.

    The area is uniform in [smallest, 1]. The aspect ratio relative to that of the image is log-uniform in
    [3/4, 4/3]. A side that would exceed the image is cut to its length. The position is uniform.

    Args:
        n: Number of boxes to draw.
        rng: Generator of the boxes, which is advanced.
        smallest: Minimum fraction of the area, in 0 < smallest <= 1.
    """
    require(0 < smallest <= 1, "smallest", "lie in 0 < smallest <= 1", smallest)
    u = torch.rand(n, 4, generator=rng)
    area = smallest + (1 - smallest) * u[:, 0]
    stretch = ((2 * u[:, 1] - 1) * math.log(_MAX_ASPECT_RATIO)).exp()
    sides = torch.stack([area / stretch, area * stretch], 1).sqrt().clamp(max=1)
    return torch.cat([u[:, 2:] * (1 - sides), sides], 1)


def cropped(x: Tensor, boxes: Tensor) -> Tensor:
    """Return crops of images (B, C, H, W) at boxes (B, 4) of `random_boxes`, bilinearly resized to (H, W)."""
    height, width = x.shape[2:]
    boxes = boxes.to(x)
    lines = []
    for axis, side in enumerate((height, width)):
        centres = (torch.arange(side, device=x.device, dtype=x.dtype) + 0.5) / side
        # grid_sample expects coordinates in [-1, 1]; those of boxes lie in [0, 1].
        lines.append(2 * (boxes[:, axis, None] + boxes[:, axis + 2, None] * centres) - 1)
    rows, columns = lines
    grid = torch.stack([columns[:, None, :].expand(-1, height, -1), rows[:, :, None].expand(-1, -1, width)], 3)
    return grid_sample(x, grid, padding_mode="border", align_corners=False)


def easiest_crops(
    x: Croppable,
    score: Callable[[Tensor], Tensor],
    rng: torch.Generator,
    *,
    keep: int,
    crops: int = 5,
    smallest: float = 0.5,
) -> Tensor:
    """Return the random crops of images with the lowest scores, (keep, C, H, W).

    The best crop of each image comes first, sorted by score. The second-best crops follow only if there are fewer
    images than `keep`, and so on.

    Args:
        x: Images of one class, (n, C, H, W), which are read and cropped in pieces.
        score: Function from images (B, C, H, W) to scores (B,), such as the loss of a teacher; lower means easier.
        rng: Generator from whose seed the boxes derive; it is not advanced.
        keep: Number of crops to return, in 1..n*crops.
        crops: Number of random crops of each image.
        smallest: Minimum fraction of the area of a crop, in 0 < smallest <= 1.

    Cost: `crops` evaluations of `score` on each image, with memory for 16 MiB of images.

    Examples:
        >>> import ddsdk
        >>> import torch
        >>> x = torch.rand(5, 1, 8, 8)
        >>> ddsdk.data.easiest_crops(x, lambda crop: crop.mean((1, 2, 3)), ddsdk.generator(0), keep=2).shape
        torch.Size([2, 1, 8, 8])
    """
    require_count("crops", crops)
    n = len(x)
    require(1 <= keep <= n * crops, "keep", f"lie in 1..{n * crops}, the crops of {n} images", keep)
    boxes = torch.stack([random_boxes(n, derive(rng, "boxes", j), smallest=smallest) for j in range(crops)], 1)
    values = x[torch.arange(1)].numel()
    scores = torch.cat([_scores(x[part], boxes[part], score) for part in positions_in_pieces(n, values)])
    # Rank of each crop among those of its image; crops are sorted by rank first, and by score within a rank.
    ranks = scores.argsort(dim=1, stable=True).argsort(dim=1).flatten()
    order = scores.flatten().argsort(stable=True)
    best = order[ranks[order].argsort(stable=True)][:keep]
    return cropped(x[best // crops], boxes.view(-1, 4)[best])


def _scores(x: Tensor, boxes: Tensor, score: Callable[[Tensor], Tensor]) -> Tensor:
    return torch.stack([score(cropped(x, boxes[:, j])).cpu() for j in range(boxes.shape[1])], 1)
