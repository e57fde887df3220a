"""Micro-batches: sums over a batch that are computed in pieces which fit the cache.

On a CPU a convolutional network takes two to five times as long per image once the activations of a batch exceed the
cache, so every sum over a batch is computed in pieces. On a GPU small pieces only add kernel launches. `MICRO_BATCH`
sets the size for the whole package; `ddsdk bench --table speed` measures its effect.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ddsdk.networks import uses_batch_statistics

MICRO_BATCH: dict[str, int | None] = {"cpu": 32}
"""Images in a micro-batch by device type; device types that are not listed take the whole batch."""


def micro_batch(network: nn.Module, device: torch.device, batch: int) -> int:
    """Return the number of images that one forward pass of `network` takes on `device`, for a batch of `batch` images.

    It is the whole batch for networks whose BatchNorm layers use batch statistics, because pieces would change the
    result, and for networks with ``whole_batch = True``, such as those whose rows are the nodes of one graph.
    """
    size = MICRO_BATCH.get(device.type)
    if size is None or uses_batch_statistics(network) or getattr(network, "whole_batch", False):
        return max(1, batch)
    return size


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
