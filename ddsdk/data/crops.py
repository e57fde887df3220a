"""Random-resized crops, and the choice of those with the lowest scores."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from ddsdk.foundation import derive, require, require_count

_RATIO = 4 / 3


def random_boxes(n: int, rng: torch.Generator, *, smallest: float = 0.5) -> Tensor:
    """Draw boxes inside the image, (n, 4): top, left, height and width as fractions of the image's sides.

    Area uniform in [smallest, 1], logarithm of the aspect ratio (relative to the image's own) uniform in
    [3/4, 4/3]; a side that would exceed the image is as long as it. The place is uniform.

    Args:
        n: Number of boxes.
        rng: Generator of the boxes.
        smallest: Least share of the area, in 0 < smallest <= 1.
    """
    require(0 < smallest <= 1, "smallest", "lie in 0 < smallest <= 1", smallest)
    u = torch.rand(n, 4, generator=rng)
    area = smallest + (1 - smallest) * u[:, 0]
    stretch = ((2 * u[:, 1] - 1) * math.log(_RATIO)).exp()
    sides = torch.stack([area / stretch, area * stretch], 1).sqrt().clamp(max=1)
    return torch.cat([u[:, 2:] * (1 - sides), sides], 1)


def cropped(x: Tensor, boxes: Tensor) -> Tensor:
    """Cut a box (B, 4) of `random_boxes` out of each image (B, C, H, W) and resize it to the image (bilinear)."""
    height, width = x.shape[2:]
    boxes = boxes.to(x)
    lines = []
    for axis, side in enumerate((height, width)):
        centres = (torch.arange(side, device=x.device, dtype=x.dtype) + 0.5) / side
        # grid_sample counts from -1 to 1 where boxes count from 0 to 1.
        lines.append(2 * (boxes[:, axis, None] + boxes[:, axis + 2, None] * centres) - 1)
    rows, columns = lines
    grid = torch.stack([columns[:, None, :].expand(-1, height, -1), rows[:, :, None].expand(-1, -1, width)], 3)
    return grid_sample(x, grid, padding_mode="border", align_corners=False)


def easiest_crops(
    x: Tensor,
    score: Callable[[Tensor], Tensor],
    rng: torch.Generator,
    *,
    keep: int,
    crops: int = 5,
    smallest: float = 0.5,
) -> Tensor:
    """Return the crops with the lowest scores, (keep, C, H, W): first the best crop of each image, best image first.

    Second-best crops follow only where there are fewer images than `keep`, and so on.

    Args:
        x: Images of one class, (n, C, H, W).
        score: Function from (B, C, H, W) to (B,), lower is easier.
        rng: Generator of the boxes.
        keep: Number of crops to return, in 1..n*crops.
        crops: Crops of each image that compete.
        smallest: Least share of the area of a crop.

    Cost: `crops` passes of `score` over the images; memory for one of them.
    """
    require_count("crops", crops)
    n = len(x)
    require(1 <= keep <= n * crops, "keep", f"lie in 1..{n * crops}, the crops of {n} images", keep)
    boxes = torch.stack([random_boxes(n, derive(rng, "boxes", j), smallest=smallest) for j in range(crops)], 1)
    scores = torch.stack([score(cropped(x, boxes[:, j])).cpu() for j in range(crops)], 1)
    places = scores.argsort(dim=1, stable=True).argsort(dim=1).flatten()
    order = scores.flatten().argsort(stable=True)
    best = order[places[order].argsort(stable=True)][:keep]
    return cropped(x[(best // crops).to(x.device)], boxes.view(-1, 4)[best])
