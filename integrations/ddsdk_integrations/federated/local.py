"""Training on the weights of the server with a client's own images: FedAvg, FedProx, SCAFFOLD and FedNova."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from torch import Tensor, nn

import ddsdk as dd
from ddsdk.foundation import derive, require, require_count, require_momentum, require_rate
from ddsdk.training import accuracy, batch_gradient, epoch
from ddsdk_integrations.federated.task import LocalData, Task, arrays_of

_CONTROL = "ddsdk-control"

Correct = Callable[[nn.Module], None]
"""Changes the gradients of a network before a step."""


@final
@dataclass(frozen=True, kw_only=True)
class LocalTraining:
    """How a client trains weights: SGD over its own images.

    Attributes:
        epochs: Passes over its images in one round.
        lr: Learning rate.
        momentum: Momentum; 0 where SCAFFOLD or FedNova count steps.
        batch_size: Images of one step.
        augmentation: See `ddsdk.Augmentation`; empty for none.
    """

    epochs: int = 1
    lr: float = 0.02
    momentum: float = 0.0
    batch_size: int = 64
    augmentation: str = ""

    def __post_init__(self) -> None:
        require_count("epochs", self.epochs)
        require_count("batch_size", self.batch_size)
        require_rate("lr", self.lr)
        require_momentum("momentum", self.momentum)
        dd.Augmentation(self.augmentation)


def fit(
    network: nn.Module, batch: dd.Batch, training: LocalTraining, rng: torch.Generator, correct: Correct | None = None
) -> tuple[int, float]:
    """Train in place; return the number of steps, and the mean loss of the last pass.

    Args:
        network: Starts where it is.
        batch: All images of the client, with label rows.
        training: How.
        rng: For order and augmentation.
        correct: Changes the gradients before each step.
    """
    optimizer = torch.optim.SGD(network.parameters(), lr=training.lr, momentum=training.momentum)
    augmentation = dd.Augmentation(training.augmentation)
    network.train()
    steps, loss = 0, 0.0
    for i in range(training.epochs):
        loss, before = 0.0, steps
        for part in epoch(batch, training.batch_size, augmentation, derive(rng, "epoch", i)):
            loss += batch_gradient(network, part)
            if correct is not None:
                correct(network)
            optimizer.step()
            steps += 1
        loss /= steps - before
    return steps, loss


def fit_reply(
    message: Message, context: Context, data: LocalData, training: LocalTraining, rng: torch.Generator
) -> Message:
    """Answer a message of FedAvg, FedProx, SCAFFOLD or FedNova.

    Args:
        message: Has the weights as ``arrays``; ``control`` of SCAFFOLD; ``proximal-mu`` of FedProx in its ``config``.
        context: SCAFFOLD keeps the client's own variate there.
        data: Of the client.
        training: How it trains.
        rng: For order and augmentation.
    """
    config = message.content["config"]
    assert isinstance(config, ConfigRecord)
    network = data.task.loaded(arrays_of(message.content, "arrays"))
    start = [p.detach().clone() for p in network.parameters()]
    control = message.content.get("control")
    mu = float(config.get("proximal-mu", 0.0))  # type: ignore[arg-type]
    if isinstance(control, ArrayRecord):
        return _scaffold(message, context, data, training, rng, network, start, control)
    steps, loss = fit(network, data.batch(), training, rng, _proximal(start, mu) if mu else None)
    return Message(RecordDict(_records(network, data, steps, loss)), reply_to=message)


def _records(
    network: nn.Module, data: LocalData, steps: int, loss: float
) -> dict[str, ArrayRecord | MetricRecord | ConfigRecord]:
    told: dict[str, Any] = {"num-examples": len(data.real), "steps": steps, "train-loss": loss}
    return {"arrays": ArrayRecord(network.state_dict()), "metrics": MetricRecord(told)}


def _proximal(start: list[Tensor], mu: float) -> Correct:
    """FedProx: the gradient of mu/2 ||w - w_0||^2."""

    def correct(network: nn.Module) -> None:
        for p, first in zip(network.parameters(), start, strict=True):
            assert p.grad is not None
            p.grad += mu * (p.detach() - first)

    return correct


def _scaffold(
    message: Message,
    context: Context,
    data: LocalData,
    training: LocalTraining,
    rng: torch.Generator,
    network: nn.Module,
    start: list[Tensor],
    control: ArrayRecord,
) -> Message:
    """Correct each step by c - c_i, and send how far c_i moved: option II of the paper.

    References:
        Karimireddy et al., "SCAFFOLD: Stochastic Controlled Averaging for Federated Learning", ICML 2020.
    """
    require(training.momentum == 0, "momentum", "be 0 for SCAFFOLD", training.momentum)
    server = list(control.to_torch_state_dict().values())
    kept = context.state.get(_CONTROL)
    own = (
        list(kept.to_torch_state_dict().values())
        if isinstance(kept, ArrayRecord)
        else [torch.zeros_like(p) for p in start]
    )
    shift = [c - mine for c, mine in zip(server, own, strict=True)]

    def correct(changed: nn.Module) -> None:
        for p, d in zip(changed.parameters(), shift, strict=True):
            assert p.grad is not None
            p.grad += d

    steps, loss = fit(network, data.batch(), training, rng, correct)
    scale = 1 / (steps * training.lr)
    with torch.no_grad():
        new = [(first - p) * scale - d for first, p, d in zip(start, network.parameters(), shift, strict=True)]
    names = list(control)
    context.state[_CONTROL] = ArrayRecord(dict(zip(names, new, strict=True)))
    moved = {name: n - mine for name, n, mine in zip(names, new, own, strict=True)}
    records = {**_records(network, data, steps, loss), "control": ArrayRecord(moved)}
    return Message(RecordDict(records), reply_to=message)


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
