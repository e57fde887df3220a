"""Images as stored, class ids, and names where the source has them: what every reader gives to `load`."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ddsdk.foundation import generator, require

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Raw:
    """One split of a data set before any check of its content.

    Attributes:
        images: Images (N, C, H, W), uint8 or float.
        labels: Class ids (N,) int64.
        class_names: Names of the K classes, or None where the source gives numbers only.
    """

    images: Tensor
    labels: Tensor
    class_names: tuple[str, ...] | None = None


def fixed_part(n: int, split: str, *key: int | str) -> Tensor:
    """Return the positions of n items that are in a split: the key draws a quarter of them for "test"."""
    order, cut = torch.randperm(n, generator=generator(*key)), round(0.25 * n)
    return (order[:cut] if split == "test" else order[cut:]).sort().values


def check_resize(resize: tuple[int, int] | None) -> None:
    """Raise ``ValueError`` unless `resize` is None or two positive integers (H, W)."""
    ok = resize is None or (len(resize) == 2 and all(isinstance(n, int) and n > 0 for n in resize))
    require(ok, "resize", "be (height, width), both positive integers", resize)


def decode(source: Path | bytes | Image.Image, label: str, resize: tuple[int, int] | None = None) -> Pixels:
    """Read one picture as 8-bit grey (H, W) or colour (H, W, 3).

    Args:
        source: A file, its bytes, or a picture that is open already, with at most 8 bits per channel.
        label: Name of the picture in an error.
        resize: Height and width to resample to, bilinear with antialiasing, or None.
    """
    try:
        with _opened(source) as picture:
            mode = picture.mode
            shown = picture.convert("L" if mode in ("1", "L", "LA", "La") else "RGB")
    # Pillow reports broken files by all of these, depending on the format.
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise ValueError(f"{label} must be a readable picture, got an error: {error}") from error
    require(not mode.startswith(("I", "F")), label, "have at most 8 bits per channel", f"mode {mode}")
    if resize is not None:
        shown = shown.resize((resize[1], resize[0]), Image.Resampling.BILINEAR)
    return np.asarray(shown)


def stack(pictures: Sequence[Pixels], labels: Sequence[str]) -> Tensor:
    """Stack pictures of one size as (N, C, H, W) uint8; grey ones become colour if any other is colour."""
    size = pictures[0].shape[:2]
    for picture, label in zip(pictures, labels, strict=True):
        if picture.shape[:2] != size:
            found = f"{picture.shape[0]}x{picture.shape[1]} in {label}"
            rule = f"have one size, {size[0]}x{size[1]} as in {labels[0]} (or pass resize=(H, W))"
            raise ValueError(f"images must {rule}, got {found}")
    channels = 3 if any(picture.ndim == 3 for picture in pictures) else 1
    images = np.empty((len(pictures), *size, channels), dtype=np.uint8)
    for row, picture in zip(images, pictures, strict=True):
        row[...] = picture if picture.ndim == 3 else picture[..., None]
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


def _opened(source: Path | bytes | Image.Image) -> AbstractContextManager[Image.Image]:
    if isinstance(source, Image.Image):
        # A picture that the caller opened is the caller's to close.
        return nullcontext(source)
    return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)
