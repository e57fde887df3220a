"""Unchecked images, class ids and class names, which readers return to `load`, and the decoding of pictures."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from ddsdk.foundation import generator, require

PixelArray = NDArray[np.uint8]


@dataclass(frozen=True)
class Raw:
    """One split of a data set, whose content is not yet checked.

    Attributes:
        images: Images (N, C, H, W), uint8 or float.
        labels: Integer class ids, (N,) int64.
        class_names: Names of the K classes; None if the source has class ids only.
    """

    images: Tensor
    labels: Tensor
    class_names: tuple[str, ...] | None = None


def fixed_part(n: int, split: str, *key: int | str) -> Tensor:
    """Return the sorted positions of the items of a split; a random quarter, drawn from the key, is "test".

    Args:
        n: Number of items of both splits together.
        split: Split to return, "train" or "test".
        key: Integers and strings that seed the random choice.
    """
    order, cut = torch.randperm(n, generator=generator(*key)), round(0.25 * n)
    return (order[:cut] if split == "test" else order[cut:]).sort().values


def check_resize(resize: tuple[int, int] | None) -> None:
    """Check that `resize` is None or two positive integers (H, W), else raise ValueError."""
    valid = resize is None or (len(resize) == 2 and all(isinstance(n, int) and n > 0 for n in resize))
    require(valid, "resize", "be (height, width), both positive integers", resize)


def decode(source: Path | bytes | Image.Image, label: str, resize: tuple[int, int] | None = None) -> PixelArray:
    """Return the pixels of a picture, 8-bit grey (H, W) or colour (H, W, 3).

    The orientation in the picture's EXIF data is applied. Transparent pixels are laid over white: the colour that a
    file stores in a transparent pixel is arbitrary, and often black.

    Args:
        source: Path of a file, bytes of a file, or an open picture, with at most 8 bits per channel.
        label: Name of the picture in error messages.
        resize: Height and width in pixels to which it is resampled, bilinearly with antialiasing; None keeps its size.

    Raises:
        ValueError: If the picture cannot be read.
    """
    try:
        with _opened(source) as picture:
            mode = picture.mode
            upright = _over_white(ImageOps.exif_transpose(picture))
            converted = upright.convert("L" if mode in ("1", "L", "LA", "La") else "RGB")
    # Pillow raises one of these errors for a damaged file, depending on the format.
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise ValueError(f"{label} must be a readable picture, got an error: {error}") from error
    require(not mode.startswith(("I", "F")), label, "have at most 8 bits per channel", f"mode {mode}")
    if resize is not None:
        converted = converted.resize((resize[1], resize[0]), Image.Resampling.BILINEAR)
    return np.asarray(converted)


def _over_white(picture: Image.Image) -> Image.Image:
    if not picture.has_transparency_data:
        return picture
    # Premultiplied modes have no direct way to RGBA.
    plain = picture.convert(picture.mode.upper()) if picture.mode in ("La", "RGBa") else picture
    return Image.alpha_composite(Image.new("RGBA", plain.size, "white"), plain.convert("RGBA"))


def stack(pictures: Sequence[PixelArray], labels: Sequence[str]) -> Tensor:
    """Return pictures of one size as a tensor (N, C, H, W) uint8, in colour if any of them is in colour.

    Raises:
        ValueError: If the pictures differ in size.
    """
    size = pictures[0].shape[:2]
    for picture, label in zip(pictures, labels, strict=True):
        if picture.shape[:2] != size:
            other_size = f"{picture.shape[0]}x{picture.shape[1]} in {label}"
            rule = f"have one size, {size[0]}x{size[1]} as in {labels[0]} (or pass resize=(H, W))"
            raise ValueError(f"images must {rule}, got {other_size}")
    channels = 3 if any(picture.ndim == 3 for picture in pictures) else 1
    images = np.empty((len(pictures), *size, channels), dtype=np.uint8)
    for row, picture in zip(images, pictures, strict=True):
        row[...] = picture if picture.ndim == 3 else picture[..., None]
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


def _opened(source: Path | bytes | Image.Image) -> AbstractContextManager[Image.Image]:
    if isinstance(source, Image.Image):
        # The caller opened this picture and closes it.
        return nullcontext(source)
    return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)
