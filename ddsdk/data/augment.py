"""Differentiable siamese augmentation (DSA), whose random parameters can be applied again to any batch.

Operations and ranges are those of the paper: flip with probability 1/2; independent scaling of both axes by a factor in
[1/1.2, 1.2]; rotation by up to 15 degrees; shifts by up to 12.5 % of the side, with zero padding; cutout of a box with
half the side; brightness +-0.5; saturation times [0, 2]; contrast times [0.5, 1.5].

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
    """Augmentation operation.

    Attributes:
        numbers: Number n of uniform random numbers for each image.
        apply: Function of images (B, C, H, W) and uniform numbers (B, n) or (1, n), which returns augmented images.
    """

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
    """Return the integers in low..high, inclusive, to which uniform numbers in [0, 1) are mapped."""
    return (u * (high - low + 1)).floor().long() + low


def _crop(x: Tensor, u: Tensor) -> Tensor:
    # A shift by up to an eighth of the side; pixels from outside of the image are zero.
    height, width = x.shape[2:]
    max_dy, max_dx = (int(side * 0.125 + 0.5) for side in (height, width))
    dy, dx = _positions(u[:, 0], -max_dy, max_dy), _positions(u[:, 1], -max_dx, max_dx)
    rows = torch.arange(height, device=x.device) + dy[:, None]
    columns = torch.arange(width, device=x.device) + dx[:, None]
    inside = ((rows >= 0) & (rows < height))[:, None, :, None] & ((columns >= 0) & (columns < width))[:, None, None, :]
    rows, columns = rows.clamp(0, height - 1), columns.clamp(0, width - 1)
    if len(u) == 1:
        shifted = x[:, :, rows[0]][:, :, :, columns[0]]
    else:
        n = torch.arange(len(x), device=x.device)[:, None, None]
        shifted = x.permute(0, 2, 3, 1)[n, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    return shifted * inside.to(x.dtype)


def _cutout(x: Tensor, u: Tensor) -> Tensor:
    # The box has half the side and a uniform centre in the image; a part of it may lie outside.
    inside = []
    for axis, side in enumerate(x.shape[2:]):
        box = int(side * 0.5 + 0.5)
        start = _positions(u[:, axis], 0, side - box % 2) - box // 2
        pixels = torch.arange(side, device=x.device)
        inside.append((pixels >= start[:, None]) & (pixels < start[:, None] + box))
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
    """Augmentation with fixed random parameters: two calls with one batch give bitwise equal images.

    Gradient matching applies one draw to the real and to the synthetic batch of a step.

    Attributes:
        steps: Pairs of an operation name and its uniform numbers, (1, n) for a siamese draw and (B, n) otherwise.

    Examples:
        >>> import ddsdk
        >>> import torch
        >>> draw = ddsdk.Augmentation("flip").siamese(ddsdk.generator(0))
        >>> real, synthetic = draw(torch.rand(64, 1, 8, 8)), draw(torch.rand(10, 1, 8, 8))
        >>> real.shape, synthetic.shape
        (torch.Size([64, 1, 8, 8]), torch.Size([10, 1, 8, 8]))
    """

    steps: tuple[tuple[str, Tensor], ...] = ()

    def __call__(self, x: Tensor) -> Tensor:
        """Return augmented images (B, C, H, W), differentiable with respect to `x`."""
        for name, u in self.steps:
            x = OPS[name].apply(x, u.to(x.device))
        return x

    def rows(self, start: int, stop: int) -> Draw:
        """Return the draw for the images `start` to `stop - 1` of the batch."""
        return Draw(tuple((name, u if len(u) == 1 else u[start:stop]) for name, u in self.steps))


@dataclass(frozen=True)
class Augmentation:
    """Strategy of differentiable augmentation: groups of operations, from each of which a draw takes one operation.

    Args:
        strategy: Groups joined by ``+``, each with operation names joined by ``_``; an empty string means none.
            ``"color_crop_cutout_flip_scale_rotate"`` applies one of six operations (DSA);
            ``"flip+color+crop_scale_rotate"`` applies three: flip, color, and one of the last three (IDC).

    Examples:
        >>> import ddsdk
        >>> augmentation = ddsdk.Augmentation("flip+color+crop_scale_rotate")
        >>> draw = augmentation.per_image(64, ddsdk.generator(0))
        >>> [(name, numbers.shape) for name, numbers in draw.steps[:2]]
        [('flip', torch.Size([64, 1])), ('color', torch.Size([64, 3]))]
    """

    strategy: str = ""
    groups: tuple[tuple[str, ...], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        groups = tuple(tuple(g.split("_")) for g in self.strategy.split("+")) if self.strategy else ()
        for name in (name for group in groups for name in group):
            if name not in OPS:
                similar = get_close_matches(name, OPS, n=1)
                hint = f" (did you mean {similar[0]!r}?)" if similar else ""
                raise ValueError(f"augmentation must name operations of {sorted(OPS)}, got {name!r}{hint}")
        object.__setattr__(self, "groups", groups)

    def siamese(self, rng: torch.Generator) -> Draw:
        """Return a siamese draw: its random parameters are the same for all images of all batches."""
        return self.per_image(1, rng)

    def per_image(self, images: int, rng: torch.Generator) -> Draw:
        """Return a draw for a batch of `images` images, with separate random parameters for each image."""
        names = [group[int(torch.randint(len(group), (), generator=rng))] for group in self.groups]
        return Draw(tuple((name, torch.rand(images, OPS[name].numbers, generator=rng)) for name in names))


def cutmix(x: Tensor, y: Tensor, probability: float, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return a batch after CutMix: each image gets a box of another image, and labels are mixed by area.

    All images of the batch have the same box. Its fraction of the area is uniform in [0, 1), and its centre is uniform;
    the box is cut at the edges.

    Args:
        x: Images of the batch, (B, C, H, W).
        y: Label probabilities of the images, (B, K).
        probability: Probability that the batch is mixed, 0..1; otherwise it is returned unchanged.
        rng: Generator of the box and of the pairs of images, which is advanced.

    Examples:
        >>> import ddsdk
        >>> import torch
        >>> x, y = torch.rand(4, 1, 8, 8), torch.eye(4)
        >>> mixed, labels = ddsdk.data.cutmix(x, y, 1.0, ddsdk.generator(0))
        >>> mixed.shape, labels.shape
        (torch.Size([4, 1, 8, 8]), torch.Size([4, 4]))

    References:
        Yun et al., "CutMix", ICCV 2019, arXiv:1905.04899.
    """
    # All numbers are drawn even if the batch is not mixed, so that later draws do not depend on `probability`.
    chance, area_fraction, *centre = torch.rand(4, generator=rng).tolist()
    order = torch.randperm(len(x), generator=rng).to(x.device)
    if chance >= probability:
        return x, y
    edges = []
    for side, position in zip(x.shape[2:], centre, strict=True):
        half = side * math.sqrt(area_fraction) / 2
        middle = position * side
        edges.append((max(0, round(middle - half)), min(side, round(middle + half))))
    (top, bottom), (left, right) = edges
    pasted = torch.zeros(x.shape[2:], dtype=torch.bool, device=x.device)
    pasted[top:bottom, left:right] = True
    # The label weights follow the area after the cut at the edges, as in the paper's code.
    area = float(pasted.float().mean())
    return torch.where(pasted, x[order], x), (1 - area) * y + area * y[order]


DSA_STRATEGY = "color_crop_cutout_flip_scale_rotate"
"""Published DSA strategy for natural images, with all six operations. Digits must not be flipped."""

NO_AUGMENTATION = Augmentation()
NO_DRAW = Draw()
