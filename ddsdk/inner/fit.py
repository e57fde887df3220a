"""Ordinary training of a network on batches: students and evaluation share it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ddsdk.augment import Augmentation, cutmix
from ddsdk.data.sources import Batch
from ddsdk.errors import require_rate
from ddsdk.inner.micro import micro_batch, pieces
from ddsdk.rng import derive

__all__ = ["accuracy", "batch_gradient", "embeddings", "epoch", "gradient_step", "probabilities"]


def gradient_step(network: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch) -> float:
    """Take one optimizer step on the mean cross-entropy of a batch; return that loss.

    Args:
        network: Maps (B, C, H, W) to logits (B, K).
        optimizer: Over the network's parameters.
        batch: Images and label probabilities.

    Cost: one forward and backward over the batch; memory for one micro-batch.
    """
    loss = batch_gradient(network, batch)
    optimizer.step()
    return loss


def batch_gradient(network: nn.Module, batch: Batch) -> float:
    """Leave the gradient of the mean cross-entropy of a batch in the parameters; return that loss."""
    n, total = len(batch.x), 0.0
    network.zero_grad(set_to_none=True)
    for part in pieces(n, micro_batch(network, batch.x.device, n)):
        loss = cross_entropy(network(batch.x[part]), batch.y[part], reduction="sum") / n
        loss.backward()  # type: ignore[no-untyped-call]
        total += float(loss.detach())
    return total


def epoch(
    batch: Batch, batch_size: int, augmentation: Augmentation, rng: torch.Generator, *, mix: float = 0.0
) -> Iterator[Batch]:
    """Give one pass over a set in random order, in augmented batches.

    Args:
        batch: The whole set.
        batch_size: Images of one batch.
        augmentation: Drawn once a batch, with numbers of its own for each image.
        rng: The pass derives its order and its draws from it.
        mix: Probability that a batch is mixed by CutMix after its augmentation.
    """
    order = torch.randperm(len(batch.x), generator=derive(rng, "order")).to(batch.x.device)
    for i, part in enumerate(torch.split(order, batch_size)):
        draw = augmentation.per_image(len(part), derive(rng, "augmentation", i))
        yield Batch(*cutmix(draw(batch.x[part]), batch.y[part], mix, derive(rng, "mix", i)))


@torch.no_grad()
def accuracy(network: nn.Module, x: Tensor, labels: Tensor) -> float:
    """Return the fraction of images whose largest logit is their label.

    Args:
        network: Maps (B, C, H, W) to logits (B, K). Evaluated in eval mode and put back, layer by layer.
        x: (N, C, H, W).
        labels: (N,) int64.
    """
    # network.train() would thaw batch norm layers whose statistics were measured and fixed.
    modes = [(layer, layer.training) for layer in network.modules()]
    network.eval()
    hits = (probabilities(network, x).argmax(1) == labels).sum()
    for layer, training in modes:
        layer.training = training
    return int(hits) / len(x)


@torch.no_grad()
def embeddings(network: nn.Module, x: Tensor) -> Tensor:
    """Return `network.embed(x)`, (N, F), taken in micro-batches.

    Args:
        network: Has `embed`: (B, C, H, W) -> (B, F).
        x: (N, C, H, W).
    """
    return _in_pieces(network.embed, network, x)  # type: ignore[arg-type]


@torch.no_grad()
def probabilities(network: nn.Module, x: Tensor, temperature: float = 1.0) -> Tensor:
    """Return the softmax of `network(x) / temperature`, (N, K), taken in micro-batches."""
    require_rate("temperature", temperature)
    return (_in_pieces(network, network, x) / temperature).softmax(1)


def _in_pieces(function: Callable[[Tensor], Tensor], network: nn.Module, x: Tensor) -> Tensor:
    size = min(1024, micro_batch(network, x.device, len(x)))
    return torch.cat([function(x[part]) for part in pieces(len(x), size)])
