"""Atomic writes of files and folders, an exclusive lock of a folder, and canonical JSON.

A file under its final name is always complete. After a failed write the earlier file is unchanged. No write follows a
link that a folder from elsewhere may hold: files are made anew under random names and renamed, and the folders inside
an output folder are checked. This module does not import torch or numpy.
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
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from filelock import FileLock, Timeout

from ddsdk.foundation.errors import ArtifactError, FolderBusyError, StorageError
from ddsdk.foundation.text import clean

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

T = TypeVar("T")

STALE_SECONDS = 3600.0
_PREFIX, _SUFFIX = ".ddsdk-", ".tmp"
_TEMPORARY_NAME = re.compile(r"\.ddsdk-[0-9a-f]{16}\.tmp")
_LOCK, _OWNER = ".ddsdk.lock", ".ddsdk.owner"
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)


def cache_folder() -> Path:
    """Return the folder of trained runs and decoded pictures: ``$DDSDK_CACHE``, or ``ddsdk`` in the user's cache."""
    configured = os.environ.get("DDSDK_CACHE")
    if configured:
        return Path(configured)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ddsdk"


def write_atomic(path: str | os.PathLike[str], data: bytes, *, previous: Path | None = None) -> None:
    """Write a file atomically: at any time a reader finds the complete old content or the complete new content.

    The bytes are written to a temporary file in the same folder and flushed to the disk. The temporary file is then
    renamed, and the folder is flushed. The mode of the file follows the umask. A symbolic or hard link at `path` is
    replaced and not followed, so that a link in an untrusted folder cannot redirect the write. The first write of a
    process into a folder removes the temporary files of killed writers, see `remove_stale_files`.

    Args:
        path: File to write, in an existing folder.
        data: Complete content of the file.
        previous: File to which an older file at `path` is renamed once the new one is complete, in the same folder.
            None replaces it. Between the two renames there is no file at `path`.

    Raises:
        StorageError: If the disk is full, the folder is not writable, or `path` is a folder or a device.
            The message gives the bytes needed, the bytes free, and the state of the old file.

    Examples:
        >>> write_atomic("accuracies.json", readable_json({"dm": 0.5}))
        >>> strict_json(Path("accuracies.json").read_bytes())
        {'dm': 0.5}
    """
    path = Path(path)
    temporary = path.parent / f"{_PREFIX}{secrets.token_hex(8)}{_SUFFIX}"
    replaced = False
    try:
        _check_target(path)
        _sweep_once(path.parent.absolute())
        _write_new(temporary, data)
        if previous is not None and os.path.lexists(path):
            _check_target(previous)
            os.replace(path, previous)  # noqa: PTH105
        os.replace(temporary, path)  # noqa: PTH105 - os.replace and os.fsync are where tests inject faults
        replaced = True
        _sync_folder(path.parent)
    except OSError as error:
        raise StorageError(_failed_write(path, len(data), error, replaced=replaced)) from error
    finally:
        if not replaced:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def _check_target(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        mode = path.lstat().st_mode
        # A rename would replace the folder, pipe or device itself.
        if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
            raise OSError(errno.EINVAL, "the target exists and is not a regular file")


def _write_new(path: Path, data: bytes) -> None:
    handle = os.open(path, _NEW, 0o666)
    try:
        _mark_in_use(handle)
        view = memoryview(data)
        while view:
            view = view[os.write(handle, view) :]
        os.fsync(handle)
    finally:
        os.close(handle)


def open_unblocked(path: str, flags: int) -> int:
    """Open a file without waiting: opener of `open` for folders that may hold a pipe or a device.

    Args:
        path: Path of the file to open.
        flags: Flags for the call of `os.open`.

    Returns:
        The file descriptor.
    """
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # Windows cannot open a folder to flush it
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _failed_write(path: Path, needed: int, error: OSError, *, replaced: bool) -> str:
    try:
        free = f"{shutil.disk_usage(path.parent).free} bytes free"
    except OSError:
        free = "free space unknown"
    if replaced:
        state = "the new file is in place but may not survive a power cut"
    elif os.path.lexists(path):
        state = "the old file is unchanged"
    else:
        state = "no file was there before and none is now"
    reason = error.strerror or str(error)
    return f"cannot write {str(path)!r}: {reason}; {needed} bytes needed, {free}; {state}"


def make_folder(folder: str | os.PathLike[str]) -> None:
    """Make a folder with its parents, unless it exists.

    Raises:
        StorageError: If it cannot be made.

    Examples:
        >>> make_folder("results/2026")
        >>> Path("results/2026").is_dir()
        True
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot make folder {str(folder)!r}: {error.strerror or error}") from error


def inner_folder(folder: str | os.PathLike[str], *names: str) -> Path:
    """Return the path of a folder inside an output folder, whether or not it exists; it must not lead out of it.

    The output folder itself may be a link, which its user has chosen. A link below it may come from elsewhere, such as
    an archive, and would lead the written files to a place of its author's choice.

    Args:
        folder: Output folder, which its user has chosen.
        *names: Names of the folders on the way from `folder` to the inner folder.

    Raises:
        StorageError: If one of the folders on the way is a symbolic link.

    Examples:
        >>> inner_folder("table", "sets", "dm").parts
        ('table', 'sets', 'dm')
    """
    path = Path(folder)
    for name in names:
        path /= name
        if path.is_symlink():
            raise StorageError(
                f"{str(path)!r} must be a folder of its own, not a link, because files would be written outside of "
                f"{str(folder)!r}; remove the link, or choose another output folder"
            )
    return path


@contextlib.contextmanager
def staged_folder(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary folder beside `folder`, which is renamed to `folder` when the block ends without an error.

    `folder` must not exist or must be empty. If the block raises, the temporary folder is removed.

    Raises:
        StorageError: If `folder` is not empty, or the temporary folder cannot be made or renamed.

    Examples:
        >>> with staged_folder("pictures") as staged:
        ...     write_atomic(staged / "0.txt", b"class 0")
        >>> [path.name for path in Path("pictures").iterdir()]
        ['0.txt']
    """
    folder = Path(folder)
    staged = folder.parent / f"{_PREFIX}{secrets.token_hex(8)}{_SUFFIX}"
    try:
        _check_new_or_empty(folder)
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


def _check_new_or_empty(folder: Path) -> None:
    if folder.is_symlink() or (folder.exists() and not (folder.is_dir() and not any(folder.iterdir()))):
        raise OSError(errno.EEXIST, "the target holds files already; name a new or empty folder")


def remove_stale_files(folder: str | os.PathLike[str], *, older_than: float = STALE_SECONDS) -> list[str]:
    """Remove the temporary files that killed writers left in a folder.

    Only files with the temporary names of this module are removed. A file that a running process of this machine is
    writing stays, whatever its age. A writer on another machine changes its file all the time; its file is therefore
    younger than `older_than`. All times are those of the file system, because the clocks of two machines may differ.

    Args:
        folder: Folder to clean; a missing one counts as empty.
        older_than: Seconds since the last change, from which on a file is removed. 0 is safe under `lock`, where no
            writer on another machine can be running.

    Returns:
        Names of the removed files, sorted.
    """
    entries = [e for e in sorted(Path(folder).glob(f"{_PREFIX}*{_SUFFIX}")) if _TEMPORARY_NAME.fullmatch(e.name)]
    if not entries:
        return []
    removed: list[str] = []
    with contextlib.suppress(OSError):  # a folder that is not writable
        now = file_system_time(folder)
        for entry in entries:
            with contextlib.suppress(OSError):
                if now - _last_change(entry) < older_than or _in_use(entry):
                    continue
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry)
                else:
                    entry.unlink()
                removed.append(entry.name)
    return removed


@lru_cache(maxsize=4096)
def _sweep_once(folder: Path) -> None:
    remove_stale_files(folder)


def file_system_time(folder: str | os.PathLike[str]) -> float:
    """Return the present time by the clock of the file system that holds a folder, in seconds since 1970.

    It is compared with the times of files: the clock of a file server may differ from that of this machine.

    Examples:
        >>> write_atomic("young.txt", b"")
        >>> file_system_time(".") - Path("young.txt").stat().st_mtime < 60
        True
    """
    probe = Path(folder) / f"{_PREFIX}{secrets.token_hex(8)}{_SUFFIX}"
    handle = os.open(probe, _NEW, 0o666)
    try:
        return float(os.fstat(handle).st_mtime)
    finally:
        os.close(handle)
        probe.unlink(missing_ok=True)


def _last_change(entry: Path) -> float:
    """Return the time of the last change of a file, or of the youngest file in a folder."""
    inner = entry.rglob("*") if entry.is_dir() and not entry.is_symlink() else ()
    return max(float(path.lstat().st_mtime) for path in (entry, *inner))


def _mark_in_use(handle: int) -> None:
    """Lock a new temporary file until it is closed: the lock of a killed process ends with it."""
    if fcntl is not None:
        with contextlib.suppress(OSError):  # some network file systems have no locks; the age decides there
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _in_use(path: Path) -> bool:
    if fcntl is None or path.is_symlink() or not path.is_file():
        return False
    handle = open_unblocked(str(path), os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(handle)
    return False


@contextlib.contextmanager
def lock(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Lock a folder for writing during a block, or fail at once.

    The same thread may lock the folder again, so that a run with a locked output folder can save a set into it. The
    empty lock file is never removed: otherwise two later writers could lock two different files of that name.

    Raises:
        FolderBusyError: If another process or thread has locked the folder. The message names folder and owner.
        StorageError: If `folder` is not a folder, or the lock file cannot be made.

    Examples:
        >>> with lock("."):
        ...     removed = remove_stale_files(".", older_than=0)
    """
    folder = Path(folder).resolve()
    if not folder.is_dir():
        raise StorageError(f"cannot lock {str(folder)!r}: it is not a folder")
    guard = FileLock(folder / _LOCK, is_singleton=True)
    try:
        _check_lock_file(folder / _LOCK)
        guard.acquire(blocking=False)
    except Timeout:
        message = f"folder {str(folder)!r} is being written by {_owner(folder)}"
        raise FolderBusyError(f"{message}; wait for it or choose another folder") from None
    except (OSError, NotImplementedError) as error:  # the latter on a file system without locks
        reason = getattr(error, "strerror", None) or error
        raise StorageError(f"cannot lock {str(folder)!r}: {reason}") from error
    outermost = guard.lock_counter == 1
    try:
        if outermost:
            with contextlib.suppress(OSError):  # the owner's name only improves the message of a later FolderBusyError
                _write_owner(folder / _OWNER)
        yield
    finally:
        if outermost:
            with contextlib.suppress(OSError):
                (folder / _OWNER).unlink(missing_ok=True)
        guard.release()


def _check_lock_file(path: Path) -> None:
    # Locking opens the file for writing, which older versions of filelock do with truncation.
    with contextlib.suppress(FileNotFoundError):
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode) or (status.st_nlink > 1 and status.st_size > 0):
            raise OSError(errno.EINVAL, f"{path.name} is a link or not a file; remove it")


def _write_owner(path: Path) -> None:
    path.unlink(missing_ok=True)  # a link of this name would lead the write elsewhere
    with path.open("x", encoding="utf-8") as file:
        file.write(f"{os.getpid()} {socket.gethostname()}")


def _owner(folder: Path) -> str:
    try:
        with open(folder / _OWNER, encoding="utf-8", opener=open_unblocked) as handle:
            pid, host = handle.read(300).split()
        return f"process {int(pid)} on host {host!r}"
    except (OSError, ValueError):
        return "another process or thread"


def canonical_json(obj: object) -> bytes:
    """Return a JSON value as canonical bytes for hashing: sorted keys, no spaces, ASCII only, finite numbers.

    Examples:
        >>> canonical_json({"ipc": 10, "data": "digits"})
        b'{"data":"digits","ipc":10}'
    """
    return json.dumps(obj, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def readable_json(obj: object) -> bytes:
    """Return a JSON value as `canonical_json` does, but with line breaks and spaces for human readers."""
    return (json.dumps(obj, sort_keys=True, indent=1, allow_nan=False) + "\n").encode("ascii")


def strict_json(data: bytes) -> Any:  # noqa: ANN401 - JSON has no smaller type
    """Return the value of JSON text in UTF-8; duplicate keys, NaN and infinities are errors.

    Raises:
        ValueError: If the text is not valid JSON of this kind, or is nested too deeply.

    Examples:
        >>> strict_json(b'{"ipc": 1, "ipc": 10}')
        Traceback (most recent call last):
        ValueError: duplicate key
    """
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("nesting is too deep") from None


def read_json(data: bytes, kind: type[T], reason: str, rule: str) -> T:
    """Return the value of JSON text, converted to a type such as a dataclass.

    Args:
        data: JSON text in UTF-8.
        kind: Type of the value.
        reason: Code of the error, see `ArtifactError`.
        rule: Sentence with which the message of the error begins.

    Raises:
        ArtifactError: If the text does not fit the type. The message is "rule, got: cause".
    """
    try:
        return msgspec.convert(strict_json(data), kind, strict=True)
    except (ValueError, msgspec.ValidationError) as error:
        raise ArtifactError(reason, f"{rule}, got: {clean(str(error))}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("duplicate key")
    return values


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")
