"""Decoding of pictures into a file of the cache folder, by several processes, for data larger than memory."""

from __future__ import annotations

import hashlib
import itertools
import math
import multiprocessing
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import torch
from torch import Tensor

from ddsdk.data.on_disk import DiskImages
from ddsdk.data.pictures import Pictures, UnreadablePictureError, check_decoded
from ddsdk.foundation import (
    StorageError,
    allocate_file,
    cache_folder,
    canonical_json,
    inner_folder,
    lock,
    machine_memory,
    make_folder,
    note,
    open_in_place,
    readable_bytes,
    readable_json,
    require,
    require_count,
    write_atomic,
)

MEMORY_SHARE = 0.5
"""Share of the machine's memory above which decoded pictures are kept on disk by default."""

_CHUNK_BYTES = 1 << 25
_FORMAT = 1


class _Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """First line of the journal: the shape that the pictures are decoded to."""

    shape: tuple[int, int, int, int]


class _Chunk(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Line of the journal: a finished chunk of pictures, with its damaged pictures as (position, name, reason)."""

    start: int
    unreadable: list[tuple[int, str, str]]
    sizes: list[tuple[int, int, int]]
    in_colour: bool
    reduced: bool
    animated: int


class _Result(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Description of a complete file of images."""

    shape: tuple[int, int, int, int]
    unreadable: list[tuple[int, str, str]]
    reduced: bool
    animated: int


class _Task(NamedTuple):
    pictures: Pictures
    path: Path
    shape: tuple[int, int, int, int]


def is_larger_than_memory(pictures: Pictures) -> bool:
    """Return whether decoded pictures take more than half of the machine's memory; False if that is unknown."""
    memory = machine_memory()
    if memory is None or source_files(pictures) is None:
        return False
    needed = math.prod(_shape(pictures) or (0,))
    if needed <= MEMORY_SHARE * memory:
        return False
    note(
        f"{len(pictures)} decoded pictures take {readable_bytes(needed)}, more than half of this machine's memory: "
        "they are kept on disk (on_disk=True or --on-disk)"
    )
    return True


def source_files(pictures: Pictures) -> Sequence[Path] | None:
    """Return the files that hold the pictures; None for pictures that have no files of their own."""
    files: Sequence[Path] | None = getattr(pictures.source, "files", None)
    return files


def decode_to_disk(
    pictures: Pictures, *, workers: int = 1, skip_unreadable: bool = False, split: str = "train"
) -> tuple[DiskImages, Tensor]:
    """Return pictures as images in a file of the cache folder, in colour if any of them is in colour.

    The file is found again for the same pictures: its folder is named by the paths, sizes and times of their files, by
    the choice of pictures and by the resizing. A decoding that was interrupted is continued. Unreadable pictures,
    pictures that differ in size, and no pictures are a ValueError. A disk without enough free space is a `StorageError`
    before a picture is decoded.

    Args:
        pictures: Pictures of one size after their resizing.
        workers: Number of processes that decode; 1 decodes in this process.
        skip_unreadable: True leaves pictures out that cannot be read, with a note that names them. False refuses them.
        split: Name of the split in messages.

    Returns:
        Images, and positions (N,) int64 of the pictures that are among them.
    """
    require_count("workers", workers)
    files = source_files(pictures)
    rule = "be left out unless data is a folder, parquet files or tar files"
    require(files is not None, "on_disk", rule, type(pictures.source).__name__)
    folder = inner_folder(cache_folder(), "pictures", _key(pictures, files or ()))
    result = _read_result(folder, len(pictures))
    if result is None:
        make_folder(folder)
        with lock(folder):
            result = _read_result(folder, len(pictures)) or _decode(pictures, folder, workers, split)
    errors = _errors(result.unreadable)
    check_decoded(errors, Counter(), len(pictures), skip_unreadable=skip_unreadable, split=split)
    if result.animated:
        note(f"{result.animated} pictures of {split} have several frames, of which the first is read")
    if result.reduced:
        note("pictures of 16 bits per channel are reduced to 8 bits: 65535 becomes 255")
    kept = torch.ones(len(pictures), dtype=torch.bool)
    kept[[i for i, _, _ in result.unreadable]] = False
    index = kept.nonzero().flatten()
    require(len(index) > 0, f"data of {split}", "hold at least one readable picture", 0)
    return DiskImages(folder / "images.u8", result.shape, index if errors else None), index


def _errors(unreadable: Sequence[tuple[int, str, str]]) -> list[UnreadablePictureError]:
    return [UnreadablePictureError(name, reason) for _, name, reason in unreadable]


def _key(pictures: Pictures, files: Sequence[Path]) -> str:
    facts = []
    for file in sorted(set(files)):
        status = file.stat()
        facts.append([str(file.resolve()), status.st_size, status.st_mtime_ns])
    description = {
        "format": _FORMAT,
        "files": facts,
        "column": getattr(pictures.source, "stamp", ""),
        "index": hashlib.sha256(np.asarray(pictures.index, np.int64).tobytes()).hexdigest(),
        "resize": None if pictures.resize is None else pictures.resize.state,
    }
    return hashlib.sha256(canonical_json(description)).hexdigest()[:32]


def _read_result(folder: Path, n: int) -> _Result | None:
    """Return the description of the complete file of `n` images; None if it is missing or damaged."""
    try:
        result = msgspec.json.decode((folder / "images.json").read_bytes(), type=_Result)
    except (OSError, msgspec.MsgspecError):
        return None
    return result if _fits(result.shape, n) and _lie_in(result.unreadable, n) else None


def _fits(shape: Sequence[int], n: int) -> bool:
    return shape[0] == n and min(shape) > 0


def _lie_in(unreadable: Sequence[tuple[int, str, str]], n: int) -> bool:
    return all(0 <= i < n for i, _, _ in unreadable)


def _shape(pictures: Pictures) -> tuple[int, int, int, int] | None:
    """Return the shape (N, C, H, W) for the first readable picture; None if no picture can be read."""
    for i in range(len(pictures)):
        try:
            pixels = pictures[i]
        except UnreadablePictureError:
            continue
        return len(pictures), 3 if pixels.ndim == 3 else 1, *pixels.shape[:2]
    return None


def _decode(pictures: Pictures, folder: Path, workers: int, split: str) -> _Result:
    path, journal = folder / "images.u8", folder / "journal.jsonl"
    shape, done = _read_journal(journal, len(pictures))
    if shape is None or not path.is_file() or path.stat().st_size != math.prod(shape):
        shape, done = _shape(pictures), {}
        if shape is None:
            return _nothing_readable(pictures)
        _allocate(path, math.prod(shape))
    # A line that was cut off is left out, because further lines follow.
    lines_so_far = [_Header(shape), *done.values()]
    write_atomic(journal, b"".join(msgspec.json.encode(line) + b"\n" for line in lines_so_far))
    size = max(1, _CHUNK_BYTES // math.prod(shape[1:]))
    todo = [start for start in range(0, len(pictures), size) if start not in done]
    what = f"{len(pictures)} pictures, {readable_bytes(math.prod(shape))}, with {workers} process(es)"
    already = f" ({len(done)} of {len(done) + len(todo)} parts are there already)" if done else ""
    note(f"decoding {what} into {str(folder)!r}{already}")
    sizes = Counter({shape[2:]: 0})
    task = _Task(pictures, path, shape)
    with open_in_place(journal, append=True) as lines, _results(task, todo, size, workers) as results:
        for chunk in itertools.chain(list(done.values()), results):
            if chunk.in_colour and shape[1] == 1:
                break
            for height, width, count in chunk.sizes:
                sizes[height, width] += count
            if len(sizes) > 1:
                path.unlink()
                unreadable = [item for other in (*done.values(), chunk) for item in other.unreadable]
                check_decoded(_errors(unreadable), sizes, len(pictures), skip_unreadable=False, split=split)
            if chunk.start not in done:
                lines.write(msgspec.json.encode(chunk) + b"\n")
                lines.flush()
                done[chunk.start] = chunk
        else:
            ordered = [done[start] for start in sorted(done)]
            unreadable = [item for chunk in ordered for item in chunk.unreadable]
            reduced, animated = any(chunk.reduced for chunk in ordered), sum(chunk.animated for chunk in ordered)
            result = _Result(shape, unreadable, reduced, animated)
            write_atomic(folder / "images.json", readable_json(msgspec.to_builtins(result)))
            journal.unlink()
            return result
    # A picture in colour was met after grey ones: all are decoded again, in colour.
    _allocate(path, 3 * math.prod(shape))
    write_atomic(journal, msgspec.json.encode(_Header((shape[0], 3, *shape[2:]))) + b"\n")
    return _decode(pictures, folder, workers, split)


def _nothing_readable(pictures: Pictures) -> _Result:
    unreadable = []
    for i in range(len(pictures)):
        try:
            pictures[i]
        except UnreadablePictureError as error:
            unreadable.append((i, error.name, error.reason))
    return _Result((len(pictures), 1, 1, 1), unreadable, reduced=False, animated=0)


def _read_journal(path: Path, n: int) -> tuple[tuple[int, int, int, int] | None, dict[int, _Chunk]]:
    try:
        first, *lines = path.read_bytes().splitlines()
        shape = msgspec.json.decode(first, type=_Header).shape
    except (OSError, ValueError, msgspec.MsgspecError):
        return None, {}
    if not _fits(shape, n):
        return None, {}
    done = {}
    for line in lines:
        try:
            chunk = msgspec.json.decode(line, type=_Chunk)
        except msgspec.MsgspecError:  # the line that was being written when the process was killed
            break
        if 0 <= chunk.start < n and _lie_in(chunk.unreadable, n):
            done[chunk.start] = chunk
    return shape, done


def _allocate(path: Path, needed: int) -> None:
    path.unlink(missing_ok=True)  # its space is free before the comparison
    free = shutil.disk_usage(path.parent).free
    if needed > free:
        raise StorageError(
            f"cannot write {str(path)!r}: {needed} bytes needed ({readable_bytes(needed)}), {free} bytes free; "
            "set DDSDK_CACHE to a folder on another disk, or pass a smaller resize"
        )
    allocate_file(path, needed)


@contextmanager
def _results(task: _Task, todo: Sequence[int], size: int, workers: int) -> Iterator[Iterator[_Chunk]]:
    """Yield the chunks in the order in which they are finished."""
    if workers == 1 or len(todo) <= 1:
        yield (_decode_chunk(task, start, size) for start in todo)
        return
    # Forked processes inherit locked locks of torch's threads.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(todo)), context, _set_task, (task,)) as pool:
        futures = [pool.submit(_decode_part, start, size) for start in todo]
        try:
            yield _finished(futures)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _finished(futures: Sequence[Future[_Chunk]]) -> Iterator[_Chunk]:
    try:
        for future in as_completed(futures):
            yield future.result()
    except BrokenProcessPool as error:
        raise StorageError(
            "a process that decodes pictures ended; call load below `if __name__ == '__main__':`, or pass workers=1"
        ) from error


_task: _Task | None = None


def _set_task(task: _Task) -> None:
    global _task
    _task = task


def _decode_part(start: int, size: int) -> _Chunk:
    assert _task is not None
    return _decode_chunk(_task, start, size)


def _decode_chunk(task: _Task, start: int, size: int) -> _Chunk:
    pictures, (n, *item) = task.pictures, task.shape
    images = np.zeros((min(size, n - start), *item), np.uint8)
    unreadable: list[tuple[int, str, str]] = []
    sizes: Counter[tuple[int, int]] = Counter()
    in_colour, animated = False, pictures.animated
    for i in range(len(images)):
        try:
            pixels = pictures[start + i]
        except UnreadablePictureError as error:
            unreadable.append((start + i, error.name, error.reason))
            continue
        sizes[pixels.shape[0], pixels.shape[1]] += 1
        in_colour |= pixels.ndim == 3
        if list(pixels.shape[:2]) == item[1:] and (pixels.ndim == 2 or item[0] == 3):
            images[i] = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    with open_in_place(task.path) as file:
        file.seek(start * math.prod(item))
        file.write(images.data)
        file.flush()
        # The journal names the part as finished only after its bytes are on the disk.
        os.fsync(file.fileno())
    shapes = [(height, width, count) for (height, width), count in sizes.items()]
    return _Chunk(start, unreadable, shapes, in_colour, pictures.reduced_to_8_bits, pictures.animated - animated)
