"""A contact sheet: one look at a distilled set."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ddsdk.foundation import clean, require

_TILE = 64
_GAP, _MARGIN, _LABEL = 4, 12, 190
_MAX_ROWS = 100
_PAPER, _INK, _FAINT = (250, 250, 250), (20, 20, 20), (110, 110, 110)


class Pictured(Protocol):
    """Images with their classes, such as those of a `ddsdk.Distilled`."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """K names."""
        ...

    @property
    def num_classes(self) -> int:
        """Number of classes K."""
        ...

    @property
    def images(self) -> Tensor:
        """Images, (M, C, H, W)."""
        ...

    @property
    def owner(self) -> Tensor:
        """Class of each image, (M,) int64."""
        ...

    def unit_images(self) -> Tensor:
        """Return the images in the unit range, (M, C, H, W)."""
        ...


def to_pixels(unit: Tensor) -> NDArray[np.uint8]:
    """Round images of the unit range to 8 bits.

    Args:
        unit: (M, C, H, W) in [0, 1]. Channel counts other than 1 and 3 are averaged to grey.

    Returns:
        (M, H, W) for grey and (M, H, W, 3) for colour.
    """
    pixels = (unit.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8)
    if unit.shape[1] == 3:
        return np.ascontiguousarray(pixels.permute(0, 2, 3, 1).numpy())
    if unit.shape[1] != 1:
        pixels = (unit.detach().cpu().clamp(0, 1).mean(1, keepdim=True) * 255).round().to(torch.uint8)
    return np.ascontiguousarray(pixels[:, 0].numpy())


def png_bytes(image: Image.Image) -> bytes:
    """Encode an image as PNG."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=False)
    return buffer.getvalue()


def contact_sheet(distilled: Pictured, *, per_class: int = 10, scale: int | None = None) -> Image.Image:
    """Draw one row of images for each class, with the name of the class before it.

    Short rows stand in several blocks side by side.

    Args:
        distilled: The set. Its images are shown in the unit range, clipped.
        per_class: Images of one row at most.
        scale: Whole factor by which images are enlarged, without smoothing. By default small images grow to
            about 64 pixels, and images above 128 pixels shrink to that.

    Returns:
        An RGB image. At most 100 classes are drawn; a last line says how many are left out.

    Raises:
        ValueError: If `per_class` or `scale` is below 1.
    """
    require(per_class >= 1, "per_class", "be at least 1", per_class)
    require(scale is None or scale >= 1, "scale", "be at least 1", scale)
    height, width = distilled.images.shape[2:]
    tile = _tile_size(width, height, scale)
    rows = min(distilled.num_classes, _MAX_ROWS)
    index = [torch.nonzero(distilled.owner == c).flatten()[:per_class] for c in range(rows)]
    names, label = _row_names(distilled.class_names[:rows])
    columns, step = max(1, *map(len, index)), max(tile[1], 18) + _GAP
    left_out = distilled.num_classes - rows
    blocks = max(1, min(10 // (columns + 1), rows // 5))
    high, wide = -(-rows // blocks), label + columns * (tile[0] + _GAP)
    size = (blocks * wide + (blocks - 1) * _MARGIN, high * step + (24 if left_out else 0))
    sheet = Image.new("RGB", (size[0] + 2 * _MARGIN, size[1] + 2 * _MARGIN), _PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    pictures = iter(to_pixels(distilled.unit_images()[torch.cat(index)]))
    for c in range(rows):
        left, top = _MARGIN + c // high * (wide + _MARGIN), _MARGIN + c % high * step
        draw.text((left, top + (step - _GAP) // 2), names[c], fill=_INK, font=font, anchor="lm")
        for column, picture in zip(range(len(index[c])), pictures, strict=False):
            sheet.paste(_enlarge(picture, tile), (left + label + column * (tile[0] + _GAP), top))
    if left_out:
        note = f"and {left_out} more classes"
        draw.text((_MARGIN, sheet.height - _MARGIN), note, fill=_FAINT, font=font, anchor="ls")
    return sheet


def side_by_side(sets: Sequence[tuple[str, Pictured]], *, per_class: int = 1) -> Image.Image:
    """Draw one row of images for each set, class by class, with the name of the set before it.

    Args:
        sets: Names and sets, of images of one size.
        per_class: Images of each class at most.

    Returns:
        An RGB image with at most 100 sets, and 100 images of each.

    Raises:
        ValueError: If there is no set, or `per_class` is below 1.
    """
    require(len(sets) > 0, "sets", "hold at least one set", sets)
    require(per_class >= 1, "per_class", "be at least 1", per_class)
    shown = sets[:_MAX_ROWS]
    height, width = shown[0][1].images.shape[2:]
    tile = _tile_size(width, height, None)
    names, label = _row_names([name for name, _ in shown], numbered=False)
    pictures = [_first_of_each(distilled, per_class)[:_MAX_ROWS] for _, distilled in shown]
    columns, step = max(map(len, pictures)), max(tile[1], 18) + _GAP
    size = (label + columns * (tile[0] + _GAP) + 2 * _MARGIN, len(shown) * step + 2 * _MARGIN)
    sheet = Image.new("RGB", size, _PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for r, row in enumerate(pictures):
        top = _MARGIN + r * step
        draw.text((_MARGIN, top + (step - _GAP) // 2), names[r], fill=_INK, font=font, anchor="lm")
        for column, picture in enumerate(row):
            sheet.paste(_enlarge(picture, tile), (_MARGIN + label + column * (tile[0] + _GAP), top))
    return sheet


def _first_of_each(distilled: Pictured, per_class: int) -> NDArray[np.uint8]:
    index = [torch.nonzero(distilled.owner == c).flatten()[:per_class] for c in range(distilled.num_classes)]
    return to_pixels(distilled.unit_images()[torch.cat(index)])


def sheet_png(distilled: Pictured) -> bytes:
    """Return `contact_sheet` as PNG."""
    return png_bytes(contact_sheet(distilled))


def _tile_size(width: int, height: int, scale: int | None) -> tuple[int, int]:
    longest = max(width, height)
    if scale is not None or longest <= 2 * _TILE:
        factor: float = scale if scale is not None else max(1, round(_TILE / longest))
    else:
        factor = 2 * _TILE / longest
    return max(1, round(width * factor)), max(1, round(height * factor))


def _enlarge(pixels: NDArray[np.uint8], tile: tuple[int, int]) -> Image.Image:
    picture = Image.fromarray(pixels).convert("RGB")
    grows = tile[0] >= picture.width
    return picture.resize(tile, Image.Resampling.NEAREST if grows else Image.Resampling.BOX)


def _row_names(class_names: Sequence[str], *, numbered: bool = True) -> tuple[list[str], int]:
    """Return names, with their numbers, cut to the widest label column, and the width of that column."""
    font = ImageFont.load_default(14)
    names = []
    for c, name in enumerate(class_names):
        text = whole = f"{c}  {clean(name, 60)}" if numbered else clean(name, 60)
        while font.getlength(text) > _LABEL:
            whole = whole[:-1]
            text = whole + "…"
        names.append(text)
    return names, round(max(font.getlength(name) for name in names)) + _MARGIN
