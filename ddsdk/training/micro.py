"""Micro-batches: the same sums in pieces that fit the cache.

On a CPU a convolutional net takes two to five times as long per image once the activations of a batch leave
the cache, so everything that is a sum over a batch is taken in pieces. On a GPU small pieces only add launches.
`MICRO_BATCH` is the one switch; `ddsdk bench --table speed` measures it.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from ddsdk.networks import uses_batch_statistics

MICRO_BATCH: dict[str, int | None] = {"cpu": 32}
"""Images at once on each kind of device; kinds that are not listed take the whole batch."""


def micro_batch(network: nn.Module, device: torch.device, batch: int) -> int:
    """Return the number of images of a batch that `network` should get at once on `device`.

    It is the whole batch where BatchNorm layers use batch statistics: pieces would change the result. So it is where
    the network has ``whole_batch = True``, as one whose rows are the nodes of one graph.
    """
    size = MICRO_BATCH.get(device.type)
    if size is None or uses_batch_statistics(network) or getattr(network, "whole_batch", False):
        return max(1, batch)
    return size


def pieces(batch: int, size: int) -> Iterator[slice]:
    """Cut `range(batch)` into slices of at most `size`."""
    for start in range(0, batch, size):
        yield slice(start, min(start + size, batch))
