"""Training on the weights of the server with a client's own images, and the server's test of its weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from flwr.app import ArrayRecord, MetricRecord
from torch import nn

import ddsdk as dd
from ddsdk.foundation import Momentum, PositiveFloat, PositiveInt, check_numbers, derive
from ddsdk.training import accuracy, epoch, gradient_step
from ddsdk_integrations.federated.task import Task


@final
@dataclass(frozen=True, kw_only=True)
class LocalTraining:
    """Training of weights by SGD on a client's own images.

    Attributes:
        epochs: Passes over the images in one round.
        lr: Learning rate.
        momentum: Momentum.
        batch_size: Images of one step.
        augmentation: Operations of `ddsdk.Augmentation`; empty for none.
    """

    epochs: PositiveInt = 1
    lr: PositiveFloat = 0.02
    momentum: Momentum = 0.0
    batch_size: PositiveInt = 64
    augmentation: str = ""

    def __post_init__(self) -> None:
        check_numbers(self)
        dd.Augmentation(self.augmentation)

    def fit(
        self, network: nn.Module, batch: dd.Batch, rng: torch.Generator, optimizer: torch.optim.Optimizer | None = None
    ) -> tuple[int, float]:
        """Train a network in place; return the number of steps, and the mean loss of the last pass.

        Args:
            network: Network with the weights to start from.
            batch: All images of the client, with label rows.
            rng: Root of order and augmentation.
            optimizer: Optimizer of the weights; None for SGD with `lr` and `momentum`.
        """
        if optimizer is None:
            optimizer = torch.optim.SGD(network.parameters(), lr=self.lr, momentum=self.momentum)
        augmentation = dd.Augmentation(self.augmentation)
        network.train()
        steps = 0
        losses: list[float] = []
        for i in range(self.epochs):
            parts = epoch(batch, self.batch_size, augmentation, derive(rng, "epoch", i))
            losses = [gradient_step(network, optimizer, part) for part in parts]
            steps += len(losses)
        return steps, sum(losses) / len(losses)


def accuracy_of(task: Task, test: dd.RealData) -> Callable[[int, ArrayRecord], MetricRecord]:
    """Return ``evaluate_fn`` for a strategy's ``start``: the accuracy on held-out images of the task.

    Args:
        task: Task that all sides agree on.
        test: Images in the order of the task's classes.
    """
    x, labels = test.with_preprocess(task.preprocess).batch(torch.arange(len(test))).x, test.labels

    def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:  # noqa: ARG001
        return MetricRecord({"accuracy": accuracy(task.loaded(arrays), x, labels)})

    return evaluate
