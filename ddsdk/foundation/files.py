"""The one way to write: atomic files, an exclusive folder lock, and JSON with one spelling.

A file that appears under its name is complete; a write that fails leaves what stood there before.
Nothing here needs torch or numpy.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import secrets
import shutil
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from filelock import FileLock, Timeout

from ddsdk.foundation.errors import ArtifactError, FolderBusyError, StorageError
from ddsdk.foundation.text import clean

T = TypeVar("T")

STALE_SECONDS = 3600.0
_PREFIX, _SUFFIX = ".ddsdk-", ".tmp"
_OURS = re.compile(r"\.ddsdk-[0-9a-f]{16}\.tmp")
_LOCK, _OWNER = ".ddsdk.lock", ".ddsdk.owner"


def write_atomic(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file so that its name always leads to the whole old content or the whole new one.

    The bytes go to a temporary file in the same folder, which is flushed to the disk before it takes the
    name; then the folder is flushed. The mode of the file follows the umask. A symbolic link at `path` is
    replaced and not followed, so that a link planted in a foreign folder cannot redirect a write.

    Args:
        path: File to write. Its folder must exist.
        data: Whole content.

    Raises:
        StorageError: If the disk is full, the folder cannot be written, or `path` is a folder or a device.
            The message gives the bytes needed, the bytes free, and what stands.
    """
    path = Path(path)
    temporary = path.parent / f"{_PREFIX}{secrets.token_hex(8)}{_SUFFIX}"
    replaced = False
    try:
        with contextlib.suppress(FileNotFoundError):
            mode = path.lstat().st_mode
            # A rename would replace a folder, pipe or device itself.
            if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
                raise OSError(errno.EINVAL, "the target exists and is not a regular file")
        _write_new(temporary, data)
        os.replace(temporary, path)  # noqa: PTH105 - os.replace and os.fsync are where tests inject faults
        replaced = True
        _sync_folder(path.parent)
    except OSError as error:
        raise _storage_error(path, len(data), error, replaced=replaced) from error
    finally:
        if not replaced:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def _write_new(path: Path, data: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    handle = os.open(path, flags, 0o666)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(handle, view) :]
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # a folder has no handle to flush there
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _storage_error(path: Path, needed: int, error: OSError, *, replaced: bool) -> StorageError:
    try:
        free = f"{shutil.disk_usage(path.parent).free} bytes free"
    except OSError:
        free = "free space unknown"
    if replaced:
        kept = "the new file is in place but may not survive a power cut"
    elif os.path.lexists(path):
        kept = "the old file stands"
    else:
        kept = "no file stood there before and none does now"
    why = error.strerror or str(error)
    return StorageError(f"cannot write {str(path)!r}: {why}; {needed} bytes needed, {free}; {kept}")


@contextlib.contextmanager
def staged_folder(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary sibling folder to fill, which takes the name `folder` when the block ends well.

    `folder` does not exist, or is empty. If the block raises, the temporary folder is removed.

    Raises:
        StorageError: If `folder` holds something already, or the folder cannot be made or renamed.
    """
    folder = Path(folder)
    staged = folder.parent / f"{_PREFIX}{secrets.token_hex(8)}{_SUFFIX}"
    try:
        if folder.is_symlink() or (folder.exists() and not (folder.is_dir() and not any(folder.iterdir()))):
            raise OSError(errno.EEXIST, "the target holds files already; name a new or empty folder")
        staged.mkdir()
        yield staged
        if folder.exists():
            folder.rmdir()
        os.replace(staged, folder)  # noqa: PTH105
        _sync_folder(folder.parent)
    except StorageError:
        raise
    except OSError as error:
        raise StorageError(f"cannot write folder {str(folder)!r}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def sweep(folder: str | os.PathLike[str], *, older_than: float = STALE_SECONDS) -> list[str]:
    """Remove the temporary files in `folder` of writers that were killed; return their names, sorted.

    Only names of this module are removed, and only when they have not changed for `older_than` seconds: a living
    writer keeps its file young, on this machine or on another that shares the folder. 0 is right under `lock`, where
    no other writer can be alive.
    """
    removed = []
    for entry in sorted(Path(folder).glob(f"{_PREFIX}*{_SUFFIX}")):
        with contextlib.suppress(OSError):
            if not _OURS.fullmatch(entry.name) or time.time() - entry.lstat().st_mtime < older_than:
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
            removed.append(entry.name)
    return removed


@contextlib.contextmanager
def lock(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Hold a folder for writing, or fail at once.

    The same thread may enter again, so that a run which holds its output folder can save a set into it. The
    empty lock file stays: removing it would let two later owners each lock their own copy of it.

    Raises:
        FolderBusyError: If another process or thread holds the folder. The message names folder and owner.
        StorageError: If the lock file cannot be made.
    """
    folder = Path(folder).resolve()
    if not folder.is_dir():
        raise StorageError(f"cannot lock {str(folder)!r}: it is not a folder")
    guard = FileLock(folder / _LOCK, is_singleton=True)
    try:
        guard.acquire(blocking=False)
    except Timeout:
        message = f"folder {str(folder)!r} is being written by {_owner(folder)}"
        raise FolderBusyError(f"{message}; wait for it or choose another folder") from None
    except OSError as error:
        raise StorageError(f"cannot lock {str(folder)!r}: {error.strerror or error}") from error
    outermost = guard.lock_counter == 1
    try:
        if outermost:
            with contextlib.suppress(OSError):  # the name of the owner is a courtesy, the lock is the guard
                (folder / _OWNER).write_text(f"{os.getpid()} {socket.gethostname()}", encoding="utf-8")
        yield
    finally:
        if outermost:
            with contextlib.suppress(OSError):
                (folder / _OWNER).unlink(missing_ok=True)
        guard.release()


def _owner(folder: Path) -> str:
    try:
        with (folder / _OWNER).open(encoding="utf-8") as handle:
            pid, host = handle.read(300).split()
        return f"process {int(pid)} on host {host!r}"
    except (OSError, ValueError):
        return "another process or thread"


def canonical_json(obj: object) -> bytes:
    """Return the one spelling of a JSON value: sorted keys, no spaces, ASCII only, finite numbers."""
    return json.dumps(obj, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def readable_json(obj: object) -> bytes:
    """Return `canonical_json` with line breaks, for files that people open."""
    return (json.dumps(obj, sort_keys=True, indent=1, allow_nan=False) + "\n").encode("ascii")


def strict_json(data: bytes) -> Any:  # noqa: ANN401 - JSON has no smaller type
    """Parse JSON in UTF-8; ValueError for duplicate keys, NaN, infinities, and bottomless nesting too."""
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("nesting is too deep") from None


def read_json(data: bytes, kind: type[T], reason: str, rule: str) -> T:
    """Parse `strict_json` into a type, such as a dataclass.

    Raises:
        ArtifactError: Error with `reason` and the message "rule, got: why", if the text is none of that type.
    """
    try:
        return msgspec.convert(strict_json(data), kind, strict=True)
    except (ValueError, msgspec.ValidationError) as error:
        raise ArtifactError(reason, f"{rule}, got: {clean(str(error))}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("duplicate key")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")
