"""Local training of a client on its own images, and the server's evaluation of the global weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from flwr.app import ArrayRecord, MetricRecord
from torch import nn

import ddsdk as dd
from ddsdk.foundation import Momentum, PositiveFloat, PositiveInt, check_numbers, derive
from ddsdk.judging import top1_accuracy
from ddsdk.training import epoch, gradient_step
from ddsdk_integrations.federated.task import FederatedTask


@final
@dataclass(frozen=True, kw_only=True)
class LocalTraining:
    """SGD training of the weights on a client's own images.

    Attributes:
        epochs: Passes over the images in one round.
        lr: Learning rate of SGD, positive and constant.
        momentum: Momentum of SGD, in [0, 1).
        batch_size: Number of images in one step.
        augmentation: Operations of `ddsdk.Augmentation`, joined by "_"; empty for none.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.federated import FederatedTask, LocalData, LocalTraining
        >>> real = ddsdk.load("digits")
        >>> task = FederatedTask.of(real, width=4, depth=2)
        >>> data = LocalData.of(task, real.images[:128], real.labels[:128])
        >>> steps, loss = LocalTraining(epochs=2).fit(task.make(ddsdk.generator(0)), data.batch(), ddsdk.generator(1))
        >>> steps
        4
    """

    epochs: PositiveInt = 1
    lr: PositiveFloat = 0.02
    momentum: Momentum = 0.0
    batch_size: PositiveInt = 64
    augmentation: str = ""

    def __post_init__(self) -> None:
        check_numbers(self)
        # Construction raises the error of an unknown operation.
        dd.Augmentation(self.augmentation)

    def fit(
        self, network: nn.Module, batch: dd.Batch, rng: torch.Generator, optimizer: torch.optim.Optimizer | None = None
    ) -> tuple[int, float]:
        """Train a network in place.

        Args:
            network: Network with the initial weights.
            batch: All images of the client in the value space, with label rows.
            rng: Generator from which order and augmentation derive.
            optimizer: Optimizer of the weights; None for SGD with `lr` and `momentum`.

        Returns:
            The number of steps, and the mean loss of the last epoch.
        """
        if optimizer is None:
            optimizer = torch.optim.SGD(network.parameters(), lr=self.lr, momentum=self.momentum)
        augmentation = dd.Augmentation(self.augmentation)
        network.train()
        steps = 0
        losses: list[float] = []
        for i in range(self.epochs):
            batches = epoch(batch, self.batch_size, augmentation, derive(rng, "epoch", i))
            losses = [gradient_step(network, optimizer, minibatch) for minibatch in batches]
            steps += len(losses)
        return steps, sum(losses) / len(losses)


def accuracy_of(task: FederatedTask, test: dd.RealData) -> Callable[[int, ArrayRecord], MetricRecord]:
    """Return ``evaluate_fn`` for a strategy's ``start``: the accuracy of the global weights on held-out images.

    Args:
        task: Task of the federation.
        test: Held-out images whose class ids are those of the task.

    Returns:
        A function of the round and the weights.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.federated import FederatedTask, accuracy_of
        >>> train, test = ddsdk.load_pair("digits")
        >>> task = FederatedTask.of(train, width=4, depth=2)
        >>> sorted(accuracy_of(task, test)(0, task.initial_arrays()))
        ['accuracy']
    """
    preprocessed = test.with_preprocess(task.preprocess)

    def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:  # noqa: ARG001
        return MetricRecord({"accuracy": top1_accuracy(task.loaded(arrays), preprocessed)})

    return evaluate
