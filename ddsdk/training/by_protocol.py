"""Training of a network on a set under a protocol."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from torch import nn

from ddsdk.data import Augmentation, Batch
from ddsdk.foundation import derive, require_count
from ddsdk.training.fit import epoch, evaluating_mode, gradient_step
from ddsdk.training.losses import LOSSES, Adversary, Loss
from ddsdk.training.micro import micro_batch, pieces
from ddsdk.training.protocol import Evaluation, Pace

_LEAST_MOMENTUM = 1e-30


def train(
    network: nn.Module,
    batch: Batch,
    evaluation: Evaluation,
    rng: torch.Generator,
    pace: Pace = Pace(),  # noqa: B008 - a tuple, which cannot change
    adversary: Adversary | None = None,
) -> Iterator[int]:
    """Train `network` in place on a set, giving control back after each epoch.

    Args:
        network: Network from (B, C, H, W) to logits (B, K).
        batch: Whole set, in the value space.
        evaluation: Protocol.
        rng: Root of order and augmentation.
        pace: Rate and momentum of each step, where they were learned with the set.
        adversary: Attack on the images of every step, after their augmentation: adversarial training.

    Yields:
        The number of finished epochs.
    """
    pace.check(evaluation, len(batch.x))
    augmentation = Augmentation(evaluation.augmentation)
    optimizer, loss = _optimizer(network, evaluation), LOSSES[evaluation.loss]
    per_epoch, shuffled = evaluation.steps_in_epoch(len(batch.x)), evaluation.order == "shuffled"
    network.train()
    for i in range(evaluation.epochs):
        key = derive(rng, "epoch", i)
        parts = epoch(batch, evaluation.batch_size, augmentation, key, mix=evaluation.mix, shuffled=shuffled)
        for step, part in enumerate(parts, i * per_epoch):
            _set_pace(optimizer, evaluation, pace, step, per_epoch)
            if adversary is not None:
                part = _attacked(network, part, loss, adversary, derive(key, "adversary", step))
            gradient_step(network, optimizer, part, loss)
        yield i + 1


def _attacked(network: nn.Module, batch: Batch, loss: Loss, adversary: Adversary, rng: torch.Generator) -> Batch:
    size = micro_batch(network, batch.x.device, len(batch.x))
    with evaluating_mode(network):
        attacked = [
            adversary(lambda x, y=batch.y[part]: loss(network(x), y), batch.x[part], derive(rng, part.start))  # type: ignore[misc]
            for part in pieces(len(batch.x), size)
        ]
    return Batch(torch.cat(attacked), batch.y)


def train_steps(network: nn.Module, batch: Batch, evaluation: Evaluation, steps: int, rng: torch.Generator) -> None:
    """Train `network` in place for a number of steps, which may be part of a pass or many of them.

    The schedule of the protocol is stretched or squeezed so that it ends with the last step.

    Args:
        network: Network from (B, C, H, W) to logits (B, K).
        batch: Whole set, in the value space.
        evaluation: Protocol, of whose epochs `decay_at` is a fraction.
        steps: Steps of the optimizer, >= 1.
        rng: Root of order and augmentation; pass i is that of `train`.
    """
    require_count("steps", steps)
    augmentation, shuffled = Augmentation(evaluation.augmentation), evaluation.order == "shuffled"
    optimizer, loss = _optimizer(network, evaluation), LOSSES[evaluation.loss]
    size, mix = evaluation.batch_size, evaluation.mix
    passes = (
        epoch(batch, size, augmentation, derive(rng, "epoch", i), mix=mix, shuffled=shuffled) for i in itertools.count()
    )
    network.train()
    for step, part in enumerate(itertools.islice(itertools.chain.from_iterable(passes), steps)):
        _set_pace(optimizer, evaluation, Pace(), step, steps / evaluation.epochs)
        gradient_step(network, optimizer, part, loss)


def _optimizer(network: nn.Module, evaluation: Evaluation) -> torch.optim.Optimizer:
    lr, decay = evaluation.lr, evaluation.weight_decay
    if evaluation.optimizer == "adam":
        betas = (evaluation.momentum, 0.999)
        return torch.optim.Adam(network.parameters(), lr=lr, betas=betas, weight_decay=decay)
    return torch.optim.SGD(network.parameters(), lr=lr, momentum=evaluation.momentum, weight_decay=decay)


def _set_pace(
    optimizer: torch.optim.Optimizer, evaluation: Evaluation, pace: Pace, step: int, per_epoch: float
) -> None:
    (group,) = optimizer.param_groups
    group["lr"] = pace.rates[step] if pace.rates else evaluation.rate_at(step, per_epoch)
    if pace.momenta:
        # With a momentum of exactly 0, torch would leave the step out of its buffer.
        group["momentum"] = max(pace.momenta[step], _LEAST_MOMENTUM)
