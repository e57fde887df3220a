"""Contact sheets: the images of a distilled set in one picture."""

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
    """Interface of images with classes, such as `ddsdk.Distilled`."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the K classes."""
        ...

    @property
    def num_classes(self) -> int:
        """Number of classes K."""
        ...

    @property
    def images(self) -> Tensor:
        """Images (M, C, H, W) in any value space."""
        ...

    @property
    def owner(self) -> Tensor:
        """Class of each image, (M,) int64."""
        ...

    def unit_images(self) -> Tensor:
        """Return the images (M, C, H, W) in the unit range."""
        ...


def to_pixels(unit: Tensor) -> NDArray[np.uint8]:
    """Round images of the unit range to 8 bits.

    Args:
        unit: Images (M, C, H, W) in [0, 1]. Channels are averaged to grey unless there are 1 or 3.

    Returns:
        Pixels (M, H, W) of grey images, or (M, H, W, 3) of colour images.

    Examples:
        >>> import torch
        >>> from ddsdk.artefact import to_pixels
        >>> to_pixels(torch.rand(2, 3, 8, 8)).shape
        (2, 8, 8, 3)
    """
    pixels = (unit.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8)
    if unit.shape[1] == 3:
        return np.ascontiguousarray(pixels.permute(0, 2, 3, 1).numpy())
    if unit.shape[1] != 1:
        pixels = (unit.detach().cpu().clamp(0, 1).mean(1, keepdim=True) * 255).round().to(torch.uint8)
    return np.ascontiguousarray(pixels[:, 0].numpy())


def png_bytes(image: Image.Image) -> bytes:
    """Return an image as the bytes of a PNG file.

    Examples:
        >>> from PIL import Image
        >>> from ddsdk.artefact import png_bytes
        >>> png_bytes(Image.new("L", (8, 8)))[1:4]
        b'PNG'
    """
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=False)
    return buffer.getvalue()


def contact_sheet(distilled: Pictured, *, per_class: int = 10, scale: int | None = None) -> Image.Image:
    """Draw one row of images for each class, after the name of the class.

    Short rows are arranged in several blocks side by side. At most 100 classes are drawn; a last line gives the number
    of the others.

    Args:
        distilled: Distilled set. Its images are drawn in the unit range, clipped.
        per_class: Largest number of images in a row, at least 1.
        scale: Whole factor, at least 1, by which images are enlarged without smoothing. None enlarges small images to
            about 64 pixels and shrinks images above 128 pixels to 128.

    Returns:
        The contact sheet as an RGB image.

    Examples:
        >>> import ddsdk
        >>> distilled = ddsdk.distill(ddsdk.BASELINES["random"](ipc=3), ddsdk.load("digits"))
        >>> sheet = ddsdk.contact_sheet(distilled, per_class=3)
        >>> sheet.mode
        'RGB'
        >>> sheet.save("sheet.png")
    """
    require(per_class >= 1, "per_class", "be at least 1", per_class)
    require(scale is None or scale >= 1, "scale", "be at least 1", scale)
    height, width = distilled.images.shape[2:]
    tile = _tile_size(width, height, scale)
    rows = min(distilled.num_classes, _MAX_ROWS)
    index = [torch.nonzero(distilled.owner == c).flatten()[:per_class] for c in range(rows)]
    names, label = _row_names(distilled.class_names[:rows])
    columns, step = max(1, *map(len, index)), max(tile[1], 18) + _GAP
    omitted = distilled.num_classes - rows
    blocks = max(1, min(10 // (columns + 1), rows // 5))
    rows_per_block, block_width = -(-rows // blocks), label + columns * (tile[0] + _GAP)
    size = (blocks * block_width + (blocks - 1) * _MARGIN, rows_per_block * step + (24 if omitted else 0))
    sheet = Image.new("RGB", (size[0] + 2 * _MARGIN, size[1] + 2 * _MARGIN), _PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    pictures = iter(to_pixels(distilled.unit_images()[torch.cat(index)]))
    for c in range(rows):
        left, top = _MARGIN + c // rows_per_block * (block_width + _MARGIN), _MARGIN + c % rows_per_block * step
        draw.text((left, top + (step - _GAP) // 2), names[c], fill=_INK, font=font, anchor="lm")
        for column, picture in zip(range(len(index[c])), pictures, strict=False):
            sheet.paste(_resize(picture, tile), (left + label + column * (tile[0] + _GAP), top))
    if omitted:
        note = f"and {omitted} more classes"
        draw.text((_MARGIN, sheet.height - _MARGIN), note, fill=_FAINT, font=font, anchor="ls")
    return sheet


def side_by_side(sets: Sequence[tuple[str, Pictured]], *, per_class: int = 1) -> Image.Image:
    """Draw one row of images for each set, class by class, after the name of the set.

    Args:
        sets: Pairs (name, set) with images of one size, at least one pair.
        per_class: Largest number of images of each class, at least 1.

    Returns:
        An RGB image of at most 100 sets, with at most 100 images each.

    Examples:
        >>> import ddsdk
        >>> from ddsdk.artefact import side_by_side
        >>> real = ddsdk.load("digits")
        >>> names = ("random", "means")
        >>> sets = [(name, ddsdk.distill(ddsdk.BASELINES[name](ipc=1), real)) for name in names]
        >>> side_by_side(sets).mode
        'RGB'
    """
    require(len(sets) > 0, "sets", "hold at least one set", sets)
    require(per_class >= 1, "per_class", "be at least 1", per_class)
    sets = sets[:_MAX_ROWS]
    height, width = sets[0][1].images.shape[2:]
    tile = _tile_size(width, height, None)
    names, label = _row_names([name for name, _ in sets], numbered=False)
    pictures = [_first_of_each_class(distilled, per_class)[:_MAX_ROWS] for _, distilled in sets]
    columns, step = max(map(len, pictures)), max(tile[1], 18) + _GAP
    size = (label + columns * (tile[0] + _GAP) + 2 * _MARGIN, len(sets) * step + 2 * _MARGIN)
    sheet = Image.new("RGB", size, _PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for r, row in enumerate(pictures):
        top = _MARGIN + r * step
        draw.text((_MARGIN, top + (step - _GAP) // 2), names[r], fill=_INK, font=font, anchor="lm")
        for column, picture in enumerate(row):
            sheet.paste(_resize(picture, tile), (_MARGIN + label + column * (tile[0] + _GAP), top))
    return sheet


def _first_of_each_class(distilled: Pictured, per_class: int) -> NDArray[np.uint8]:
    index = [torch.nonzero(distilled.owner == c).flatten()[:per_class] for c in range(distilled.num_classes)]
    return to_pixels(distilled.unit_images()[torch.cat(index)])


def sheet_png(distilled: Pictured) -> bytes:
    """Return the default contact sheet of a set as the bytes of a PNG file.

    Examples:
        >>> import ddsdk
        >>> from ddsdk.artefact import sheet_png
        >>> distilled = ddsdk.distill(ddsdk.BASELINES["random"](ipc=1), ddsdk.load("digits"))
        >>> sheet_png(distilled)[1:4]
        b'PNG'
    """
    return png_bytes(contact_sheet(distilled))


def _tile_size(width: int, height: int, scale: int | None) -> tuple[int, int]:
    longest = max(width, height)
    if scale is not None or longest <= 2 * _TILE:
        factor: float = scale if scale is not None else max(1, round(_TILE / longest))
    else:
        factor = 2 * _TILE / longest
    return max(1, round(width * factor)), max(1, round(height * factor))


def _resize(pixels: NDArray[np.uint8], tile: tuple[int, int]) -> Image.Image:
    picture = Image.fromarray(pixels).convert("RGB")
    enlarges = tile[0] >= picture.width
    return picture.resize(tile, Image.Resampling.NEAREST if enlarges else Image.Resampling.BOX)


def _row_names(class_names: Sequence[str], *, numbered: bool = True) -> tuple[list[str], int]:
    """Return names with their numbers, cut to the largest width of the name column, and the width of this column."""
    font = ImageFont.load_default(14)
    names = []
    for c, name in enumerate(class_names):
        text = prefix = f"{c}  {clean(name, 60)}" if numbered else clean(name, 60)
        while font.getlength(text) > _LABEL:
            prefix = prefix[:-1]
            text = prefix + "…"
        names.append(text)
    return names, round(max(font.getlength(name) for name in names)) + _MARGIN
