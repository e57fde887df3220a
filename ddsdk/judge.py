"""Judge a set: train fresh networks on it under a stated protocol and test them once, at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ddsdk.augment import Augmentation
from ddsdk.data.sources import Batch, RealData
from ddsdk.errors import require
from ddsdk.evaluation import Evaluation, Score
from ddsdk.inner.fit import accuracy, epoch, gradient_step
from ddsdk.networks.catalog import network_factory
from ddsdk.networks.network import Network
from ddsdk.rng import derive

__all__ = ["Progress", "evaluate", "evaluating", "train"]


class Progress(NamedTuple):
    """How far an evaluation is.

    Attributes:
        done: Finished epochs, counted over all networks.
        total: Epochs of all networks.
        score: What came out; only the last one has it.
        kept: Whether the score was read from a file and not computed.
    """

    done: int
    total: int
    score: Score | None = None
    kept: bool = False


def train(network: nn.Module, batch: Batch, evaluation: Evaluation, rng: torch.Generator) -> Iterator[int]:
    """Train `network` in place on a set, giving control back after each epoch.

    Args:
        network: Maps (B, C, H, W) to logits (B, K).
        batch: The whole set, in the value space.
        evaluation: The protocol.
        rng: Root of order and augmentation.

    Yields:
        The number of finished epochs.
    """
    augmentation = Augmentation(evaluation.augmentation)
    optimizer = torch.optim.SGD(
        network.parameters(),
        lr=evaluation.lr,
        momentum=evaluation.momentum,
        weight_decay=evaluation.weight_decay,
    )
    network.train()
    for i in range(evaluation.epochs):
        for group in optimizer.param_groups:
            group["lr"] = evaluation.rate_in(i)
        key = derive(rng, "epoch", i)
        for part in epoch(batch, evaluation.batch_size, augmentation, key, mix=evaluation.mix):
            gradient_step(network, optimizer, part)
        yield i + 1


def evaluate(
    batch: Batch | tuple[Tensor, Tensor],
    test: RealData,
    evaluation: Evaluation,
    *,
    rng: torch.Generator,
    name: str = "set",
) -> Score:
    """Train fresh networks on a set and return their accuracy on `test`.

    Args:
        batch: Images (M, C, H, W) in the value space of `test`, and labels (M, K) as probabilities.
        test: Held-out real data; read once for each network, after its last epoch.
        evaluation: The protocol.
        rng: Network i derives its initialisation and training from it.
        name: For tables.

    Returns:
        The accuracies with what they mean.

    Raises:
        ValueError: If images or labels do not fit `test`.
    """
    for step in evaluating(batch, test, evaluation, rng=rng, name=name):
        score = step.score
    assert score is not None  # the last step of every evaluation has it
    return score


def evaluating(
    batch: Batch | tuple[Tensor, Tensor],
    test: RealData,
    evaluation: Evaluation,
    *,
    rng: torch.Generator,
    name: str = "set",
) -> Iterator[Progress]:
    """Do what `evaluate` does, giving control back after each epoch.

    The arguments are those of `evaluate`; they are checked before this returns.

    Yields:
        How far it is. The last one holds the score.

    Raises:
        ValueError: If images or labels do not fit `test`.
    """
    x, y = batch
    require(
        tuple(x.shape[1:]) == test.image_shape, "images", f"have shape {test.image_shape}", tuple(x.shape[1:])
    )
    require(len(y) == len(x), "labels", f"have one row for each of the {len(x)} images", len(y))
    require(y.shape[1] == test.num_classes, "labels", f"have {test.num_classes} columns", y.shape[1])
    make = network_factory(
        evaluation.network, test.image_shape, test.num_classes, **evaluation.network_options
    )
    return _evaluating(Batch(x, y), test, evaluation, make, rng, name)


def _evaluating(
    batch: Batch,
    test: RealData,
    evaluation: Evaluation,
    make: Callable[[torch.Generator], Network],
    rng: torch.Generator,
    name: str,
) -> Iterator[Progress]:
    x, y = batch
    hard = bool(((y == 0) | (y == 1)).all())
    total = evaluation.networks * evaluation.epochs
    began, accuracies = time.perf_counter(), []
    held_out = test.batch(torch.arange(len(test))).x
    for i in range(evaluation.networks):
        key = derive(rng, "network", i)
        network = make(derive(key, "init")).to(x.device)
        for epochs in train(network, batch, evaluation, derive(key, "train")):
            yield Progress(i * evaluation.epochs + epochs, total)
        accuracies.append(accuracy(network, held_out, test.labels))
    score = Score(
        name=name,
        protocol=evaluation.protocol,
        network=evaluation.network_label,
        accuracies=tuple(accuracies),
        images=len(x),
        stored_floats=x.numel() + (len(y) if hard else y.numel()),
        seconds=time.perf_counter() - began,
    )
    yield Progress(total, total, score)
