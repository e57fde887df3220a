"""Files that are written in place: large ones that several processes fill, and markers that must be new.

All other files are written by `write_atomic`. As there, no write follows a link that a folder from elsewhere may hold.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

from ddsdk.foundation.errors import StorageError

_NO_LINK = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)


def create_file(path: str | os.PathLike[str], data: bytes = b"") -> bool:
    """Create a file, unless its name is taken by a file or by a link.

    Args:
        path: File to create, in an existing folder.
        data: Content of the file.

    Returns:
        Whether the file was created.

    Raises:
        StorageError: If the file cannot be written.

    Examples:
        >>> create_file("lease", b"process 1"), create_file("lease", b"process 2")
        (True, False)
    """
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_LINK, 0o666)
    except FileExistsError:
        return False
    except OSError as error:
        raise StorageError(f"cannot create {str(path)!r}: {error.strerror or error}") from error
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
    except OSError as error:
        # A name without its content would stay taken.
        Path(path).unlink(missing_ok=True)
        raise StorageError(f"cannot create {str(path)!r}: {error.strerror or error}") from error
    return True


def allocate_file(path: str | os.PathLike[str], size: int) -> None:
    """Make a file of zeros in the place of what has its name; the target of a link stays as it is.

    Args:
        path: File to make, in an existing folder.
        size: Size of the file in bytes. The disk gives the space as the file is written.

    Raises:
        StorageError: If the file cannot be made.

    Examples:
        >>> allocate_file("images.u8", 1024)
        >>> Path("images.u8").stat().st_size
        1024
    """
    try:
        Path(path).unlink(missing_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_LINK, 0o666)
        with os.fdopen(handle, "wb") as file:
            file.truncate(size)
    except OSError as error:
        raise StorageError(f"cannot make {str(path)!r}: {error.strerror or error}") from error


def open_in_place(path: str | os.PathLike[str], *, append: bool = False) -> BinaryIO:
    r"""Open an existing file for writing, unless it is a link.

    Args:
        path: Existing file to write to.
        append: Whether writing begins at the end of the file, in place of its start.

    Returns:
        The open file, which keeps its content.

    Raises:
        StorageError: If the file is missing, cannot be written, is a symbolic link, or has a second name, which may
            belong to a file elsewhere.

    Examples:
        >>> allocate_file("images.u8", 4)
        >>> with open_in_place("images.u8") as file:
        ...     _ = file.write(bytes([7]))
        >>> Path("images.u8").read_bytes()[:2]
        b'\x07\x00'
    """
    flags = os.O_WRONLY | (os.O_APPEND if append else 0) | getattr(os, "O_NONBLOCK", 0) | _NO_LINK
    try:
        handle = os.open(path, flags)
    except OSError as error:
        # A symbolic link gives "too many levels of symbolic links".
        raise StorageError(f"cannot write {str(path)!r}: {error.strerror or error}") from error
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        os.close(handle)
        raise StorageError(f"cannot write {str(path)!r}: it is a link or not a file; remove it")
    return os.fdopen(handle, "ab" if append else "wb")
