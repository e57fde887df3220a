"""Micro-batches: sums over a batch that are computed in pieces, whose activations fit the memory.

On a CPU the C library keeps freed tensors of moderate size for the next piece, see
`ddsdk.foundation.keep_freed_memory`. The operating system clears the pages of larger tensors at each allocation. On
a GPU small pieces only add kernel launches. `MICRO_BATCH` sets the size for the whole package. `MemoryFallback` repeats
a computation in smaller pieces when memory runs out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import TypeVar, final

import torch
from torch import Tensor, nn

from ddsdk.foundation import note
from ddsdk.networks import uses_batch_statistics

T = TypeVar("T")

MICRO_BATCH: dict[str, int | None] = {"cpu": 32}
"""Images in a micro-batch by device type; device types that are not listed take the whole batch."""


def micro_batch(network: nn.Module, device: torch.device, batch: int) -> int:
    """Return the number of images that one forward pass of `network` takes on `device`, for a batch of `batch` images.

    It is the whole batch for networks whose BatchNorm layers use batch statistics, because pieces would change the
    result, and for networks with ``whole_batch = True``, such as those whose rows are the nodes of one graph.
    """
    batch = max(1, batch)
    if uses_batch_statistics(network) or getattr(network, "whole_batch", False):
        return batch
    size, fallback = MICRO_BATCH.get(device.type) or batch, _FALLBACK.get()
    return size if fallback is None else fallback.bounded(size, batch)


def may_keep_graphs() -> bool:
    """Return whether a computation may keep graphs that it can also compute again; false after memory has run out."""
    fallback = _FALLBACK.get()
    return fallback is None or fallback.kept()


@final
class MemoryFallback:
    """Repetition of a computation with less memory, each time that memory runs out.

    The first repetition keeps no graphs of unrolled steps, if any were kept. Others take micro-batches of half the
    size. Both hold for all later computations of the same object. Results differ by rounding.

    Attributes:
        size: Largest micro-batch in images; None until memory has run out.
        keep_graphs: True until memory has run out while graphs of unrolled steps were kept.

    Examples:
        >>> import ddsdk, torch
        >>> from ddsdk.training import micro_batch
        >>> from ddsdk.training.micro import MemoryFallback
        >>> network = ddsdk.network_factory("convnet", (1, 8, 8), 10, width=4)(ddsdk.generator(0))
        >>> fallback = MemoryFallback()
        >>> def computed():
        ...     size = micro_batch(network, torch.device("cpu"), 100)
        ...     if size > 20:
        ...         raise MemoryError
        ...     return size
        >>> fallback(computed)
        16
    """

    def __init__(self) -> None:
        self.size: int | None = None
        self.keep_graphs = True
        self._largest, self._kept = 1, False

    def __call__(self, compute: Callable[[], T]) -> T:
        """Return the result of a computation.

        Args:
            compute: Computation that leaves nothing behind when it fails.

        Raises:
            MemoryError: If memory runs out and no piece of the computation can become smaller.
            RuntimeError: If the computation fails otherwise, as its other errors pass through.
        """
        while True:
            self._largest, self._kept, token = 1, False, _FALLBACK.set(self)
            try:
                return compute()
            except (MemoryError, RuntimeError) as error:
                if not _out_of_memory(error):
                    raise
                if self._largest == 1 and not self._kept:
                    raise MemoryError(_ADVICE) from error
            finally:
                _FALLBACK.reset(token)
            # Outside the handler, where the traceback no longer holds the tensors of the failed attempt.
            if self._kept:
                self.keep_graphs = False
                note("memory ran out with kept graphs of unrolled steps; going on without them")
                continue
            self.size = self._largest // 2
            note(f"memory ran out with micro-batches of {self._largest} images; going on with {self.size}")

    def bounded(self, size: int, batch: int) -> int:
        """Return the number of images of a micro-batch, given that of the device and the size of the whole batch."""
        size = size if self.size is None else min(size, self.size)
        self._largest = max(self._largest, min(size, batch))
        return size

    def kept(self) -> bool:
        """Return whether graphs may be kept, and take note that they are."""
        self._kept = self.keep_graphs
        return self._kept


_FALLBACK: ContextVar[MemoryFallback | None] = ContextVar("fallback", default=None)
_ADVICE = (
    "memory ran out, and no micro-batch can become smaller: pass fewer images per class, a smaller real batch, fewer "
    "classes per step or a smaller network"
)


# Texts of a RuntimeError: PyTorch's allocator of the CPU and its GPU libraries have no type of their own.
_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "ALLOC_FAILED")


def _out_of_memory(error: BaseException) -> bool:
    known = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return known or any(text in str(error) for text in _OUT_OF_MEMORY)


def split_batches(order: Tensor, size: int, join_single: bool) -> tuple[Tensor, ...]:
    """Return consecutive batches of `order` with `size` entries each; the last one may be smaller.

    Args:
        order: Positions of the images of an epoch, (N,) int64.
        size: Number of images in one batch.
        join_single: True to join a last batch of one image to the batch before, because BatchNorm has no statistics of
            one image.
    """
    batches = torch.split(order, size)
    if join_single and len(batches) > 1 and len(batches[-1]) == 1:
        return *batches[:-2], torch.cat(batches[-2:])
    return batches


def pieces(batch: int, size: int) -> Iterator[slice]:
    """Yield consecutive slices of `range(batch)` with at most `size` items each."""
    for start in range(0, batch, size):
        yield slice(start, min(start + size, batch))
