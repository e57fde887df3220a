"""Differentiable siamese augmentation: a draw is a value that can be replayed on any batch.

The operations and ranges are those of DSA: flip with probability 1/2; independent scaling of both axes in
[1/1.2, 1.2]; rotation by up to 15 degrees; shifts by up to 12.5 % (zero padded); a cutout of half the side;
brightness +-0.5; saturation x[0, 2]; contrast x[0.5, 1.5].

References:
    Zhao and Bilen, "Dataset Condensation with Differentiable Siamese Augmentation", ICML 2021, arXiv:2102.08259.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample


class Op(NamedTuple):
    """Number n of uniform numbers that an image needs, and the function of images (B, C, H, W) and (B, n) or (1, n)."""

    numbers: int
    apply: Callable[[Tensor, Tensor], Tensor]


def _column(u: Tensor, i: int) -> Tensor:
    return u[:, i].view(-1, 1, 1, 1)


def _brightness(x: Tensor, u: Tensor) -> Tensor:
    return x + (_column(u, 0) - 0.5)


def _saturation(x: Tensor, u: Tensor) -> Tensor:
    grey = x.mean(1, keepdim=True)
    return (x - grey) * (2 * _column(u, 0)) + grey


def _contrast(x: Tensor, u: Tensor) -> Tensor:
    grey = x.mean((1, 2, 3), keepdim=True)
    return (x - grey) * (_column(u, 0) + 0.5) + grey


def _color(x: Tensor, u: Tensor) -> Tensor:
    return _contrast(_saturation(_brightness(x, u[:, 0:1]), u[:, 1:2]), u[:, 2:3])


def _flip(x: Tensor, u: Tensor) -> Tensor:
    if len(u) == 1:
        return x.flip(3) if u.item() < 0.5 else x
    return torch.where(_column(u, 0) < 0.5, x.flip(3), x)


def _positions(u: Tensor, low: int, high: int) -> Tensor:
    """Map uniform numbers to integers low..high inclusive."""
    return (u * (high - low + 1)).floor().long() + low


def _crop(x: Tensor, u: Tensor) -> Tensor:
    """Shift by up to an eighth of the side; what comes in is zero."""
    height, width = x.shape[2:]
    down, right = (int(side * 0.125 + 0.5) for side in (height, width))
    dy, dx = _positions(u[:, 0], -down, down), _positions(u[:, 1], -right, right)
    rows = torch.arange(height, device=x.device) + dy[:, None]
    columns = torch.arange(width, device=x.device) + dx[:, None]
    inside = ((rows >= 0) & (rows < height))[:, None, :, None] & ((columns >= 0) & (columns < width))[:, None, None, :]
    rows, columns = rows.clamp(0, height - 1), columns.clamp(0, width - 1)
    if len(u) == 1:
        moved = x[:, :, rows[0]][:, :, :, columns[0]]
    else:
        n = torch.arange(len(x), device=x.device)[:, None, None]
        moved = x.permute(0, 2, 3, 1)[n, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    return moved * inside.to(x.dtype)


def _cutout(x: Tensor, u: Tensor) -> Tensor:
    """Zero a box of half the side around a random centre; the box may hang over the edge."""
    inside = []
    for axis, side in enumerate(x.shape[2:]):
        box = int(side * 0.5 + 0.5)
        start = _positions(u[:, axis], 0, side - box % 2) - box // 2
        at = torch.arange(side, device=x.device)
        inside.append((at >= start[:, None]) & (at < start[:, None] + box))
    hole = inside[0][:, None, :, None] & inside[1][:, None, None, :]
    return x * (~hole).to(x.dtype)


def _warp(x: Tensor, theta: Tensor) -> Tensor:
    grid = affine_grid(theta.expand(len(x), 2, 3), list(x.shape), align_corners=False)
    return grid_sample(x, grid.to(x.dtype), align_corners=False)


def _scale(x: Tensor, u: Tensor) -> Tensor:
    factor = u * (1.2 - 1 / 1.2) + 1 / 1.2
    theta = x.new_zeros(len(u), 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = factor[:, 0].to(x.dtype), factor[:, 1].to(x.dtype)
    return _warp(x, theta)


def _rotate(x: Tensor, u: Tensor) -> Tensor:
    angle = ((u[:, 0] - 0.5) * (30 * math.pi / 180)).to(x.dtype)
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    rows = (torch.stack([cos, -sin, zero], 1), torch.stack([sin, cos, zero], 1))
    return _warp(x, torch.stack(rows, 1))


OPS: dict[str, Op] = {
    "color": Op(3, _color),
    "crop": Op(2, _crop),
    "cutout": Op(2, _cutout),
    "flip": Op(1, _flip),
    "scale": Op(2, _scale),
    "rotate": Op(1, _rotate),
}


@dataclass(frozen=True)
class Draw:
    """Operations and their numbers, drawn once: calling it twice on the same batch gives the same bits.

    Attributes:
        steps: Pairs (operation name, uniform numbers of shape (1, n) for a siamese draw, else (B, n)).
    """

    steps: tuple[tuple[str, Tensor], ...] = ()

    def __call__(self, x: Tensor) -> Tensor:
        """Augment images (B, C, H, W); differentiable with respect to `x`."""
        for name, u in self.steps:
            x = OPS[name].apply(x, u.to(x.device))
        return x

    def rows(self, start: int, stop: int) -> Draw:
        """Return the draw for images `start` to `stop` of its batch."""
        return Draw(tuple((name, u if len(u) == 1 else u[start:stop]) for name, u in self.steps))


@dataclass(frozen=True)
class Augmentation:
    """A strategy: groups of operations, of each of which a draw takes one.

    Args:
        strategy: Operation names joined by ``_`` to a group, and groups joined by ``+``.
            ``"color_crop_cutout_flip_scale_rotate"`` takes one of six operations (DSA);
            ``"flip+color+crop_scale_rotate"`` takes three operations: flip, color and one of the last three (IDC).
            Empty for none.
    """

    strategy: str = ""
    groups: tuple[tuple[str, ...], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        groups = tuple(tuple(g.split("_")) for g in self.strategy.split("+")) if self.strategy else ()
        for name in (name for group in groups for name in group):
            if name not in OPS:
                near = get_close_matches(name, OPS, n=1)
                hint = f" (did you mean {near[0]!r}?)" if near else ""
                raise ValueError(f"augmentation must name operations of {sorted(OPS)}, got {name!r}{hint}")
        object.__setattr__(self, "groups", groups)

    def siamese(self, rng: torch.Generator) -> Draw:
        """Draw operations with one set of numbers, shared by every image of every batch."""
        return self.per_image(1, rng)

    def per_image(self, images: int, rng: torch.Generator) -> Draw:
        """Draw operations for a batch of so many images, with numbers of its own for each image."""
        names = [group[int(torch.randint(len(group), (), generator=rng))] for group in self.groups]
        return Draw(tuple((name, torch.rand(images, OPS[name].numbers, generator=rng)) for name in names))


def cutmix(x: Tensor, y: Tensor, probability: float, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Paste a box of another image of the batch into each image, and mix the labels by area.

    One box for the batch, with a share of the area uniform in [0, 1) and a uniform centre, cut at the edges.

    Args:
        x: Images, (B, C, H, W).
        y: Label probabilities, (B, K).
        probability: Probability that a batch is mixed, 0..1.
        rng: Generator of the box and of the pairs.

    References:
        Yun et al., "CutMix", ICCV 2019, arXiv:1905.04899.
    """
    mixed, share, *centre = torch.rand(4, generator=rng).tolist()
    order = torch.randperm(len(x), generator=rng).to(x.device)
    if mixed >= probability:
        return x, y
    edges = []
    for side, at in zip(x.shape[2:], centre, strict=True):
        half = side * math.sqrt(share) / 2
        middle = at * side
        edges.append((max(0, round(middle - half)), min(side, round(middle + half))))
    (top, bottom), (left, right) = edges
    pasted = torch.zeros(x.shape[2:], dtype=torch.bool, device=x.device)
    pasted[top:bottom, left:right] = True
    area = float(pasted.float().mean())
    return torch.where(pasted, x[order], x), (1 - area) * y + area * y[order]


DSA_STRATEGY = "color_crop_cutout_flip_scale_rotate"
"""All six operations, as published for natural images. Digits and house numbers must not be flipped."""

NO_AUGMENTATION = Augmentation()
NO_DRAW = Draw()
