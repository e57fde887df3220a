"""Gradient steps, epochs and accuracy of a network: the training loop of students and evaluation networks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from ddsdk.data import Augmentation, Batch, cutmix
from ddsdk.foundation import derive, require_positive
from ddsdk.networks import embedding
from ddsdk.training.losses import Loss, soft_cross_entropy
from ddsdk.training.micro import MemoryFallback, micro_batch, pieces, split_batches

Penalty = Callable[[nn.Module, Batch], Tensor]
"""Penalty that is added to the loss of a network on a batch: a sum over the batch, with graph to the weights."""


def gradient_step(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    loss: Loss = soft_cross_entropy,
    penalty: Penalty | None = None,
    memory: MemoryFallback | None = None,
) -> float:
    """Take one optimizer step on the mean loss of a batch.

    Args:
        network: Network from images (B, C, H, W) to logits (B, K); the batch is passed in micro-batches.
        optimizer: Optimizer of the network's parameters.
        batch: Images and label rows of the step.
        loss: Loss, summed over the batch, see `LOSSES`.
        penalty: Penalty that is added to the summed loss; None for none.
        memory: Repetition of the gradient in smaller micro-batches when memory runs out; None for no repetition.

    Returns:
        The mean loss before the step, with the penalty.
    """
    gradient = partial(batch_gradient, network, batch, loss, penalty)
    value = gradient() if memory is None else memory(gradient)
    optimizer.step()
    return value


def batch_gradient(
    network: nn.Module, batch: Batch, loss: Loss = soft_cross_entropy, penalty: Penalty | None = None
) -> float:
    """Store the gradient of the mean loss of a batch in the ``grad`` of each parameter.

    The arguments are those of `gradient_step`.

    Returns:
        The mean loss, with the penalty.
    """
    n, total = len(batch.x), 0.0
    network.zero_grad(set_to_none=True)
    for part in pieces(n, micro_batch(network, batch.x.device, n)):
        part_loss = loss(network(batch.x[part]), batch.y[part])
        if penalty is not None:
            part_loss = part_loss + penalty(network, Batch(batch.x[part], batch.y[part]))
        part_loss = part_loss / n
        part_loss.backward()  # type: ignore[no-untyped-call]
        total += float(part_loss.detach())
    return total


def epoch(
    batch: Batch,
    batch_size: int,
    augmentation: Augmentation,
    rng: torch.Generator,
    *,
    mix: float = 0.0,
    shuffled: bool = True,
    join_single: bool = False,
) -> Iterator[Batch]:
    """Yield the augmented batches of one pass over a set.

    Args:
        batch: Images and label rows of the whole set.
        batch_size: Images in one batch; the last batch may be smaller.
        augmentation: Augmentation with different random numbers for each image.
        rng: Root of the order, the augmentation and the mixing of this pass.
        mix: Probability that a batch is mixed by CutMix after its augmentation.
        shuffled: True for a random order, false for the stored order.
        join_single: True to join a last batch of one image to the batch before, as networks with batch statistics need,
            see `ddsdk.networks.uses_batch_statistics`.
    """
    n, device = len(batch.x), batch.x.device
    order = torch.randperm(n, generator=derive(rng, "order")).to(device) if shuffled else torch.arange(n, device=device)
    for i, positions in enumerate(split_batches(order, batch_size, join_single)):
        draw = augmentation.per_image(len(positions), derive(rng, "augmentation", i))
        yield Batch(*cutmix(draw(batch.x[positions]), batch.y[positions], mix, derive(rng, "mix", i)))


@torch.no_grad()
def accuracy(network: nn.Module, x: Tensor, labels: Tensor) -> float:
    """Return the top-1 accuracy, 0..1, of a network in evaluation mode.

    Args:
        network: Network from images (B, C, H, W) to logits (B, K).
        x: Images in the value space, (N, C, H, W).
        labels: Class of each image, (N,) int64.

    Examples:
        >>> import ddsdk
        >>> test = ddsdk.load("digits", split="test")
        >>> network = ddsdk.network_factory("convnet", test.image_shape, 10, width=4)(ddsdk.generator(0))
        >>> 0 <= ddsdk.training.accuracy(network, test.preprocess(test.images), test.labels) <= 1
        True
    """
    with evaluating_mode(network):
        correct = (probabilities(network, x).argmax(1) == labels).sum()
    return int(correct) / len(x)


@contextmanager
def evaluating_mode(network: nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode, and restore the mode of every layer on exit."""
    # network.train() would unfreeze batch norm layers whose statistics were measured and fixed.
    modes = [(layer, layer.training) for layer in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for layer, training in modes:
            layer.training = training


@torch.no_grad()
def embeddings(network: nn.Module, x: Tensor) -> Tensor:
    """Return the features, (N, F), of images x, (N, C, H, W), in micro-batches and without graph.

    The features are those of `ddsdk.networks.embedding`.
    """
    return _in_pieces(embedding(network), network, x)


@torch.no_grad()
def probabilities(network: nn.Module, x: Tensor, temperature: float = 1.0) -> Tensor:
    """Return the softmax of `network(x) / temperature`, (N, K), in micro-batches and without graph."""
    require_positive("temperature", temperature)
    return (_in_pieces(network, network, x) / temperature).softmax(1)


def _in_pieces(function: Callable[[Tensor], Tensor], network: nn.Module, x: Tensor) -> Tensor:
    size = min(1024, micro_batch(network, x.device, len(x)))
    return torch.cat([function(x[part]) for part in pieces(len(x), size)])
