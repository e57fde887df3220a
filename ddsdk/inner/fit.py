"""Ordinary training of a network on batches: students and evaluation share it."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ddsdk.augment import Augmentation
from ddsdk.data.sources import Batch
from ddsdk.inner.micro import micro_batch, pieces
from ddsdk.rng import derive

__all__ = ["accuracy", "epoch", "gradient_step"]


def gradient_step(network: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch) -> float:
    """Take one optimizer step on the mean cross-entropy of a batch; return that loss.

    Args:
        network: Maps (B, C, H, W) to logits (B, K).
        optimizer: Over the network's parameters.
        batch: Images and label probabilities.

    Cost: one forward and backward over the batch; memory for one micro-batch.
    """
    n, total = len(batch.x), 0.0
    optimizer.zero_grad(set_to_none=True)
    for part in pieces(n, micro_batch(network, batch.x.device, n)):
        loss = cross_entropy(network(batch.x[part]), batch.y[part], reduction="sum") / n
        loss.backward()  # type: ignore[no-untyped-call]
        total += float(loss.detach())
    optimizer.step()
    return total


def epoch(batch: Batch, batch_size: int, augmentation: Augmentation, rng: torch.Generator) -> Iterator[Batch]:
    """Give one pass over a set in random order, in augmented batches.

    Args:
        batch: The whole set.
        batch_size: Images of one batch.
        augmentation: Drawn once a batch, with numbers of its own for each image.
        rng: The pass derives its order and its draws from it.
    """
    order = torch.randperm(len(batch.x), generator=derive(rng, "order")).to(batch.x.device)
    for i, part in enumerate(order.split(batch_size)):
        draw = augmentation.per_image(len(part), derive(rng, "augmentation", i))
        yield Batch(draw(batch.x[part]), batch.y[part])


@torch.no_grad()
def accuracy(network: nn.Module, x: Tensor, labels: Tensor) -> float:
    """Return the fraction of images whose largest logit is their label.

    Args:
        network: Maps (B, C, H, W) to logits (B, K). Evaluated in eval mode and put back.
        x: (N, C, H, W).
        labels: (N,) int64.
    """
    was_training = network.training
    network.eval()
    hits = torch.zeros((), dtype=torch.int64, device=x.device)
    # Where a device takes whole batches, a whole test set may still not fit.
    for part in pieces(len(x), min(1024, micro_batch(network, x.device, len(x)))):
        hits += (network(x[part]).argmax(1) == labels[part]).sum()
    network.train(was_training)
    return int(hits) / len(x)
