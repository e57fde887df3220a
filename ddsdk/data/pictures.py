"""Pictures that are decoded on access, and the decoding of all of them into one tensor."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import NamedTuple, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from ddsdk.data.resize import Resize
from ddsdk.foundation import note, require, require_memory

PixelArray = NDArray[np.uint8]
Encoded: TypeAlias = Path | bytes | Image.Image
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "PPM", "TIFF")
"""Names that Pillow gives to the formats that are read. None of them starts another program, as PostScript does."""
_OPENED = (*FORMATS, "MPO")  # the format of a JPEG picture with a second one, as phones write them
_NAMED_FILES = 20
"""Maximum number of damaged pictures that a message names."""


class UnreadablePictureError(ValueError):
    """A picture is damaged, missing, or in a format that cannot be converted to 8 bits per channel."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name} must be a readable picture, got {reason}")
        self.name = name
        self.reason = reason


class Decoded(NamedTuple):
    """Pixels of a picture, and what was left out of the file.

    Attributes:
        pixels: Pixels, uint8, grey (H, W) or colour (H, W, 3).
        reduced_to_8_bits: True if the file has 16 bits of grey.
        animated: True if the file has further frames.
    """

    pixels: PixelArray
    reduced_to_8_bits: bool
    animated: bool


class PictureSource(Protocol):
    """Sequence of encoded pictures, such as the files of a folder or the cells of a column."""

    def __len__(self) -> int:
        """Return the number of pictures."""
        ...

    def __getitem__(self, i: int, /) -> Encoded:
        """Return picture `i` as a path, as the bytes of a file, or opened."""
        ...

    def name(self, i: int) -> str:
        """Return the name of picture `i` for messages, such as its path or its row."""
        ...


class Pictures:
    """Sequence of pictures, each of which is decoded, turned upright and resized on access.

    Args:
        source: Encoded pictures, at most 16 bits per channel.
        resize: Geometry to which each picture is brought; None keeps the sizes.
        index: Positions in the source of the pictures of this sequence; None takes all in their order.
    """

    def __init__(self, source: PictureSource, resize: Resize | None = None, index: Sequence[int] | None = None) -> None:
        self.source = source
        self.resize = resize
        self.index = range(len(source)) if index is None else index
        self.reduced_to_8_bits = False
        self.animated = 0

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.index)

    def __getitem__(self, i: int) -> PixelArray:
        """Return the pixels of picture `i`, uint8, grey (H, W) or colour (H, W, 3)."""
        decoded = decode(self.source[self.index[i]], self.name(i), self.resize)
        self.reduced_to_8_bits |= decoded.reduced_to_8_bits
        self.animated += decoded.animated
        return decoded.pixels

    def name(self, i: int) -> str:
        """Return the name of picture `i` for messages."""
        return self.source.name(self.index[i])

    def select(self, index: Sequence[int]) -> Pictures:
        """Return the pictures at positions `index`."""
        return Pictures(self.source, self.resize, [self.index[i] for i in index])

    def resized(self, resize: Resize | None) -> Pictures:
        """Return the pictures in another geometry; None keeps the sizes."""
        return Pictures(self.source, resize, self.index)


def decode_all(pictures: Pictures, *, skip_unreadable: bool = False, split: str = "train") -> tuple[Tensor, Tensor]:
    """Return pictures as a tensor (N, C, H, W) uint8, in colour if any of them is in colour, and their positions.

    The tensor is allocated once, for the first picture. Its grey channel becomes three when the first picture in colour
    is met. Unreadable pictures, pictures that differ in size, and no pictures are a ValueError.

    Args:
        pictures: Pictures of one size after their resizing.
        skip_unreadable: True leaves pictures out that cannot be read, with a note that names them. False refuses them.
        split: Name of the split in messages.

    Returns:
        Images, and positions (N,) int64 of the pictures that are among them.
    """
    images = np.zeros((0, 0, 0, 0), np.uint8)
    kept: list[int] = []
    unreadable: list[UnreadablePictureError] = []
    sizes: Counter[tuple[int, int]] = Counter()
    for i in range(len(pictures)):
        try:
            pixels = pictures[i]
        except UnreadablePictureError as error:
            unreadable.append(error)
            continue
        height, width = pixels.shape[:2]
        sizes[height, width] += 1
        if len(sizes) > 1 or (unreadable and not skip_unreadable):
            # The refusal counts all sizes and names all damaged pictures.
            continue
        channels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
        if not kept:
            _require_memory(len(pictures), len(channels), height, width)
            images = np.empty((len(pictures), len(channels), height, width), np.uint8)
        elif len(channels) > images.shape[1]:
            images = _in_colour(images, len(kept))
        images[len(kept)] = channels
        kept.append(i)
    check_decoded(unreadable, sizes, len(pictures), skip_unreadable=skip_unreadable, split=split)
    require(bool(kept), f"data of {split}", "hold at least one readable picture", len(kept))
    if pictures.animated:
        note(f"{pictures.animated} pictures of {split} have several frames, of which the first is read")
    if pictures.reduced_to_8_bits:
        note("pictures of 16 bits per channel are reduced to 8 bits: 65535 becomes 255")
    return torch.from_numpy(images[: len(kept)]), torch.tensor(kept)


def _require_memory(n: int, channels: int, height: int, width: int) -> None:
    what = f"{n} pictures of {height} x {width} pixels"
    require_memory(n * channels * height * width, what, "pass a smaller resize, fewer pictures, or on_disk=True")


def _in_colour(grey: PixelArray, filled: int) -> PixelArray:
    _require_memory(len(grey), 4, *grey.shape[2:])
    images = np.empty((len(grey), 3, *grey.shape[2:]), np.uint8)
    images[:filled] = grey[:filled]
    return images


def check_decoded(
    unreadable: Sequence[UnreadablePictureError],
    sizes: Counter[tuple[int, int]],
    n: int,
    *,
    skip_unreadable: bool,
    split: str,
) -> None:
    """Note unreadable pictures that are left out.

    Args:
        unreadable: Errors of the pictures that cannot be read.
        sizes: Numbers of the other pictures by (height, width).
        n: Number of all pictures of the split.
        skip_unreadable: True leaves unreadable pictures out. False refuses them.
        split: Name of the split in messages.

    Raises:
        ValueError: If pictures are unreadable and not left out, or differ in size.
    """
    # One refusal has both faults, so that the second does not follow on the first.
    faults = _faults(unreadable, sizes, n, skip_unreadable, split)
    if faults:
        raise ValueError("; besides, ".join(faults))
    if unreadable:
        note(f"{len(unreadable)} of {n} pictures of {split} are unreadable and left out")
    for left_out in unreadable:
        note(f"left out: {left_out.name} ({left_out.reason})")


def _faults(
    unreadable: Sequence[UnreadablePictureError], sizes: Counter[tuple[int, int]], n: int, skip: bool, split: str
) -> list[str]:
    faults = []
    if unreadable and not skip:
        listed = "; ".join(f"{error.name} ({error.reason})" for error in unreadable[:_NAMED_FILES])
        more = f"; and {len(unreadable) - _NAMED_FILES} more" if len(unreadable) > _NAMED_FILES else ""
        rule = "be readable pictures, or be left out by skip_unreadable=True or --skip-unreadable"
        faults.append(f"all items of {split} must {rule}, got {len(unreadable)} of {n} unreadable: {listed}{more}")
    if len(sizes) > 1:
        listed = ", ".join(f"{count} of {h}x{w}" for (h, w), count in sizes.most_common(5))
        more = f" and {len(sizes) - 5} more sizes" if len(sizes) > 5 else ""
        rule = "have one size; pass resize=32 or resize=(height, width), or --resize on the command line"
        faults.append(f"images of {split} must {rule}, got {len(sizes)} sizes (height x width): {listed}{more}")
    return faults


def decode(source: Encoded, name: str, resize: Resize | None = None) -> Decoded:
    """Return the pixels of a picture, 8-bit grey (H, W) or colour (H, W, 3).

    The orientation in the picture's EXIF data is applied. Transparent pixels are laid over white: the colour that a
    file stores in a transparent pixel is arbitrary, and often black. 16 bits of grey are scaled to 8, 65535 to 255.

    Args:
        source: Path of a file, bytes of a file, or an open picture.
        name: Name of the picture in error messages.
        resize: Geometry to which it is brought; None keeps its size.

    Raises:
        UnreadablePictureError: If the picture cannot be read, is in none of `FORMATS`, or has more than 16 bits per
            channel.
    """
    try:
        with _opened(source) as picture:
            mode = picture.mode
            # A PNG file of 16 bits has mode "I" in older versions of Pillow; other files of this mode have 32 bits.
            if mode == "F" or (mode == "I" and picture.format != "PNG"):
                raise UnreadablePictureError(name, f"mode {mode}, which has 32 bits per channel")
            upright = _over_white(ImageOps.exif_transpose(picture))
            if mode.startswith("I"):
                upright = Image.fromarray(((np.asarray(upright).astype(np.uint32) + 128) // 257).astype(np.uint8))
            converted = upright.convert("L" if mode in ("1", "L", "LA", "La") or mode.startswith("I") else "RGB")
            # Photographs of several frames (MPO) hold previews and depth; their first frame is the picture.
            animated = picture.format != "MPO" and getattr(picture, "is_animated", False)
            pixels = np.asarray(converted if resize is None else resize(converted))
            return Decoded(pixels, mode.startswith("I"), animated)
    except UnreadablePictureError:
        raise
    except UnidentifiedImageError as error:
        raise UnreadablePictureError(name, f"content in none of the formats {', '.join(FORMATS)}") from error
    # Pillow raises one of these errors for a damaged file, depending on the format.
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise UnreadablePictureError(name, f"an error: {error}") from error


def _over_white(picture: Image.Image) -> Image.Image:
    if not picture.has_transparency_data:
        return picture
    # Premultiplied modes have no direct way to RGBA.
    plain = picture.convert(picture.mode.upper()) if picture.mode in ("La", "RGBa") else picture
    return Image.alpha_composite(Image.new("RGBA", plain.size, "white"), plain.convert("RGBA"))


def _opened(source: Encoded) -> AbstractContextManager[Image.Image]:
    if isinstance(source, Image.Image):
        if source.format is not None and source.format not in _OPENED:
            # Pillow decodes on first use: the content of an opened picture may not have been read yet.
            raise UnidentifiedImageError(f"format {source.format}")
        # The caller opened this picture and closes it.
        return nullcontext(source)
    return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS)
