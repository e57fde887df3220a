"""Memory that the process keeps between two computations, in place of a return to the operating system."""

from __future__ import annotations

import ctypes
import os
from functools import cache

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's `mallopt`: M_TRIM_THRESHOLD and M_MMAP_THRESHOLD."""
_KEPT = 512 * 2**20
"""Largest unused memory at the top of the heap in bytes."""
_BLOCKS = (128 * 2**20, 32 * 2**20)
"""Largest block of the heap in bytes; glibc before 2.35 accepts the second value alone."""


@cache
def keep_freed_memory() -> bool:
    """Let the C library keep up to 512 MiB of freed memory for the next tensors of this process.

    By default, glibc returns a large freed tensor to the operating system, which clears its pages at the next request.
    That takes up to a quarter of a plain step on a CPU (``python -m benchmarks.machine --table rivals``). The first
    call in a process changes the setting, and later ones do nothing. A user's own setting, the environment variable
    MALLOC_TRIM_THRESHOLD_ or MALLOC_MMAP_THRESHOLD_, stays.

    Returns:
        Whether the setting is changed; False with another C library than glibc or with a setting of the user's.

    Examples:
        >>> from ddsdk.foundation import keep_freed_memory
        >>> kept = keep_freed_memory()  # True with glibc
    """
    if any(f"MALLOC_{name}_THRESHOLD_" in os.environ for name in ("TRIM", "MMAP")):
        return False
    try:
        library = ctypes.CDLL("libc.so.6")
        library.gnu_get_libc_version  # noqa: B018  # no function of another C library
    except (OSError, AttributeError):
        return False
    accepted = any(library.mallopt(MMAP_THRESHOLD, size) for size in _BLOCKS)
    return accepted and bool(library.mallopt(TRIM_THRESHOLD, _KEPT))
