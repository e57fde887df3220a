"""Memory of the machine, and sizes in readable units."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

_CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")


def machine_memory() -> int | None:
    """Return the memory of the machine in bytes, or of the container if that is smaller; None if it is unknown.

    Example:
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


def readable_bytes(count: float) -> str:
    """Return a number of bytes in MiB or GiB.

    Example:
        >>> readable_bytes(3 * 2**30)
        '3.0 GiB'
    """
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
