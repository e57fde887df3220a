"""Memory and free disk of the machine, and sizes in readable units."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from ddsdk.foundation.errors import StorageError

_CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")


def machine_memory() -> int | None:
    """Return the memory of the machine in bytes, or of the container if that is smaller; None if it is unknown.

    Examples:
        >>> memory = machine_memory()
        >>> memory is None or memory > 0
        True
    """
    sizes = []
    try:
        sizes.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return None
    with contextlib.suppress(OSError, ValueError):  # no container, or the word "max"
        sizes.append(int(_CONTAINER_LIMIT.read_text(encoding="ascii")))
    return min(size for size in sizes if size > 0)


def memory_limit() -> int:
    """Return the largest number of bytes that foreign data may take when decoded: half of the machine's memory.

    It is 16 GiB where the memory is unknown.

    Examples:
        >>> memory_limit() > 0
        True
    """
    return (machine_memory() or 1 << 35) // 2


def require_memory(needed: int, what: str, way_out: str = "read it in parts, or on a larger machine") -> None:
    """Check, before it is decoded, that data from elsewhere fits half of the machine's memory.

    A small file may decode to any size.

    Args:
        needed: Number of bytes after decoding.
        what: Subject of the message, such as a column and its file.
        way_out: Advice in the message, such as a smaller size of the pictures.

    Raises:
        ValueError: If the data are too large; the message has both sizes and the way out.

    Examples:
        >>> require_memory(1 << 60, "the column")
        Traceback (most recent call last):
        ValueError: the column must fit half of the machine's memory ...
    """
    limit = memory_limit()
    if needed > limit:
        sizes = f"{readable_bytes(needed)} ({needed} bytes), and the limit is {readable_bytes(limit)}"
        raise ValueError(f"{what} must fit half of the machine's memory when decoded ({way_out}), got {sizes}")


def require_free_disk(folder: str | os.PathLike[str], needed: int, what: str) -> None:
    """Check before a run that the disk of a folder has enough free space.

    Args:
        folder: Folder that will be written; it need not exist yet.
        needed: Number of bytes that will be written.
        what: Subject of the message, such as "the checkpoints and the set".

    Raises:
        StorageError: If the free space is too small; the message has both sizes in bytes and the way out.

    Examples:
        >>> require_free_disk(".", 1, "the set")
    """
    path = Path(folder).absolute()
    existing = next(parent for parent in (path, *path.parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise StorageError(
            f"{what} will take {needed} bytes ({readable_bytes(needed)}) in {str(folder)!r}, and the disk has "
            f"{free} bytes free ({readable_bytes(free)}); free some space, or name a folder on another disk"
        )


def readable_bytes(count: float) -> str:
    """Return a number of bytes in MiB or GiB.

    Examples:
        >>> readable_bytes(3 * 2**30)
        '3.0 GiB'
    """
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
