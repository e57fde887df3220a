"""Images in a file on disk, of which only the batches are in memory."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias, final

import torch
from torch import Tensor

from ddsdk.foundation import StorageError, canonical_json, readable_json, require, strict_json, write_atomic


@final
class DiskImages:
    """Images (N, C, H, W) uint8 in a file, which are read at the positions that a batch needs.

    Positions are read into a new tensor with one system call for each run of consecutive images. A memory map would
    read the same pages of the operating system's cache, but its pages count as memory of the process until they are
    given back, and a file that is cut off ends the process.

    Args:
        path: File with the bytes of all images, one image after another.
        shape: Shape (M, C, H, W) of the images in the file.
        index: Positions in the file, (N,) int64, of the images; None takes all of them.

    Raises:
        StorageError: If the file is missing or has another size.

    Examples:
        >>> import torch
        >>> from pathlib import Path
        >>> from ddsdk.data import DiskImages
        >>> _ = Path("images.u8").write_bytes(bytes(range(24)))
        >>> images = DiskImages(Path("images.u8"), (6, 1, 2, 2))
        >>> images[torch.tensor([5, 0])].flatten().tolist()
        [20, 21, 22, 23, 0, 1, 2, 3]
    """

    dtype = torch.uint8
    device = torch.device("cpu")
    ndim = 4

    def __init__(self, path: Path, shape: tuple[int, int, int, int], index: Tensor | None = None) -> None:
        self.path = path
        self._stored, self._index = shape, index
        self._item = shape[1] * shape[2] * shape[3]
        try:
            size = path.stat().st_size
        except OSError as error:
            raise StorageError(f"cannot read images in {str(path)!r}: {error.strerror or error}") from error
        if size != shape[0] * self._item:
            raise StorageError(
                f"cannot read images in {str(path)!r}: {shape[0] * self._item} bytes expected, got {size}; "
                f"delete the folder {str(path.parent)!r}, and the images are decoded again"
            )

    @property
    def shape(self) -> torch.Size:
        """Shape (N, C, H, W)."""
        return torch.Size((len(self), *self._stored[1:]))

    def __len__(self) -> int:
        """Return the number of images N."""
        return self._stored[0] if self._index is None else len(self._index)

    def is_floating_point(self) -> bool:
        """Return False: pixels are bytes."""
        return False

    def __getitem__(self, index: Tensor | slice) -> Tensor:
        """Return the images at positions `index`, (B,) int64 or a slice, as a tensor (B, C, H, W) uint8."""
        if isinstance(index, slice):
            index = torch.arange(*index.indices(len(self)))
        stored = self._positions(index).tolist()
        images = torch.empty((len(stored), *self._stored[1:]), dtype=torch.uint8)
        buffer = memoryview(images.view(-1).numpy())  # type: ignore[arg-type]
        with self.path.open("rb", buffering=0) as file:
            first = 0
            while first < len(stored):
                last = first + 1
                while last < len(stored) and stored[last] == stored[last - 1] + 1:
                    last += 1
                file.seek(stored[first] * self._item)
                self._read(file, buffer[first * self._item : last * self._item])
                first = last
        return images

    def select(self, index: Tensor) -> DiskImages:
        """Return the images at positions `index`, (M,) int64, which stay in the same file."""
        return DiskImages(self.path, self._stored, self._positions(index.cpu()))

    def remembered(self, name: str, inputs: bytes, compute: Callable[[], Any]) -> Any:  # noqa: ANN401 - a JSON value
        """Return a JSON value that depends on the images and on `inputs`; it is stored beside the file of the images.

        The file has a SHA-256 of the value. A damaged file is replaced.

        Args:
            name: Name of the value, a part of the name of its file.
            inputs: All inputs of the value other than the images.
            compute: Function that computes the value, which takes a pass over all images.
        """
        positions = b"" if self._index is None else self._index.numpy().tobytes()
        key = hashlib.sha256(positions + b"|" + inputs).hexdigest()[:16]
        path = self.path.with_name(f"{name}-{key}.json")
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            stored = strict_json(path.read_bytes())
            if stored["sha256"] == _digest(stored["value"]):
                return stored["value"]
        value = compute()
        with contextlib.suppress(StorageError):  # the folder may be read-only, and the value can be computed again
            write_atomic(path, readable_json({"value": value, "sha256": _digest(value)}))
        return value

    def _positions(self, index: Tensor) -> Tensor:
        n = len(self)
        bounded = len(index) == 0 or (int(index.min()) >= 0 and int(index.max()) < n)
        require(bounded, "index", f"lie in 0..{n - 1}", index)
        return index if self._index is None else self._index[index]

    def _read(self, file: Any, buffer: memoryview) -> None:  # noqa: ANN401 - an unbuffered binary file
        while buffer:
            count = file.readinto(buffer[: 1 << 30])
            if not count:
                raise StorageError(f"cannot read images in {str(self.path)!r}: the file is cut off")
            buffer = buffer[count:]


def _digest(value: object) -> str:
    return hashlib.sha256(canonical_json(value)).hexdigest()


Images: TypeAlias = Tensor | DiskImages
"""Images (N, C, H, W), in memory or on disk."""


def unit_range(images: Tensor) -> Tensor:
    """Return images, float in the unit range or uint8 in 0..255, as floats in the unit range."""
    return images.float().div_(255) if images.dtype == torch.uint8 else images
