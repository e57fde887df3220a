"""Ordinary training of a network on batches: students and evaluation share it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ddsdk.data import Augmentation, Batch, cutmix
from ddsdk.foundation import derive, require_rate
from ddsdk.training.losses import Loss, soft_cross_entropy
from ddsdk.training.micro import micro_batch, pieces

Penalty = Callable[[nn.Module, Batch], Tensor]
"""Addition to the loss of a network on a batch: a sum over the batch, with graph to the weights."""


def gradient_step(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    loss: Loss = soft_cross_entropy,
    penalty: Penalty | None = None,
) -> float:
    """Take one optimizer step on the mean loss of a batch; return that loss.

    Args:
        network: Network from (B, C, H, W) to logits (B, K), which gets the batch in micro-batches.
        optimizer: Optimizer of the network's parameters.
        batch: Images and label rows.
        loss: Loss, summed over a batch, see `LOSSES`.
        penalty: Addition to the loss.
    """
    value = batch_gradient(network, batch, loss, penalty)
    optimizer.step()
    return value


def batch_gradient(
    network: nn.Module, batch: Batch, loss: Loss = soft_cross_entropy, penalty: Penalty | None = None
) -> float:
    """Leave the gradient of the mean loss of a batch in the parameters; return that loss."""
    n, total = len(batch.x), 0.0
    network.zero_grad(set_to_none=True)
    for part in pieces(n, micro_batch(network, batch.x.device, n)):
        share = loss(network(batch.x[part]), batch.y[part])
        if penalty is not None:
            share = share + penalty(network, Batch(batch.x[part], batch.y[part]))
        share = share / n
        share.backward()  # type: ignore[no-untyped-call]
        total += float(share.detach())
    return total


def epoch(
    batch: Batch,
    batch_size: int,
    augmentation: Augmentation,
    rng: torch.Generator,
    *,
    mix: float = 0.0,
    shuffled: bool = True,
) -> Iterator[Batch]:
    """Give one pass over a set in augmented batches.

    Args:
        batch: Whole set.
        batch_size: Images of one batch.
        augmentation: Augmentation, drawn once a batch, with numbers of its own for each image.
        rng: Root of the order and the draws of the pass.
        mix: Probability that a batch is mixed by CutMix after its augmentation.
        shuffled: Whether the order is random; otherwise it is that of the set.
    """
    n, device = len(batch.x), batch.x.device
    order = torch.randperm(n, generator=derive(rng, "order")).to(device) if shuffled else torch.arange(n, device=device)
    for i, part in enumerate(torch.split(order, batch_size)):
        draw = augmentation.per_image(len(part), derive(rng, "augmentation", i))
        yield Batch(*cutmix(draw(batch.x[part]), batch.y[part], mix, derive(rng, "mix", i)))


@torch.no_grad()
def accuracy(network: nn.Module, x: Tensor, labels: Tensor) -> float:
    """Return the fraction of images x, (N, C, H, W), whose largest logit in eval mode is their label, (N,) int64."""
    with evaluating_mode(network):
        hits = (probabilities(network, x).argmax(1) == labels).sum()
    return int(hits) / len(x)


@contextmanager
def evaluating_mode(network: nn.Module) -> Iterator[None]:
    """Put a network in the mode of evaluation, and every layer back into its own in the end."""
    # network.train() would thaw batch norm layers whose statistics were measured and fixed.
    modes = [(layer, layer.training) for layer in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for layer, training in modes:
            layer.training = training


@torch.no_grad()
def embeddings(network: nn.Module, x: Tensor) -> Tensor:
    """Return `network.embed(x)`, (N, F), of images x, (N, C, H, W), taken in micro-batches."""
    return _in_pieces(network.embed, network, x)  # type: ignore[arg-type]


@torch.no_grad()
def probabilities(network: nn.Module, x: Tensor, temperature: float = 1.0) -> Tensor:
    """Return the softmax of `network(x) / temperature`, (N, K), taken in micro-batches."""
    require_rate("temperature", temperature)
    return (_in_pieces(network, network, x) / temperature).softmax(1)


def _in_pieces(function: Callable[[Tensor], Tensor], network: nn.Module, x: Tensor) -> Tensor:
    size = min(1024, micro_batch(network, x.device, len(x)))
    return torch.cat([function(x[part]) for part in pieces(len(x), size)])
