"""Training of a network on a set under a protocol."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from torch import nn

from ddsdk.data import Augmentation, Batch
from ddsdk.foundation import derive, require_count, seeded_layers
from ddsdk.networks import uses_batch_statistics
from ddsdk.training.fit import epoch, evaluating_mode, gradient_step
from ddsdk.training.losses import LOSSES, InputAttack, Loss
from ddsdk.training.micro import MemoryFallback, micro_batch, pieces
from ddsdk.training.protocol import PerStepSchedule, TrainingProtocol

_LEAST_MOMENTUM = 1e-30


def train(
    network: nn.Module,
    batch: Batch,
    protocol: TrainingProtocol,
    rng: torch.Generator,
    per_step: PerStepSchedule = PerStepSchedule(),  # noqa: B008 - a tuple, which cannot change
    adversary: InputAttack | None = None,
) -> Iterator[int]:
    """Train a network in place on a set; each step of the returned iterator is one epoch.

    Args:
        network: Network from images (B, C, H, W) to logits (B, K).
        batch: Images and label rows of the whole set, in the value space.
        protocol: Training protocol: epochs, optimizer, schedule, augmentation and loss.
        rng: Root of the order of the images and of the augmentation.
        per_step: Learning rate and momentum of each step; empty for those of the protocol.
        adversary: Attack on the augmented images of every step, for adversarial training; None for clean images.

    Yields:
        The number of finished epochs.

    Examples:
        >>> import ddsdk, torch
        >>> real = ddsdk.load("digits")
        >>> network = ddsdk.network_factory("convnet", real.image_shape, 10, width=4)(ddsdk.generator(0))
        >>> batch, protocol = real.batch(torch.arange(100)), ddsdk.TrainingProtocol(epochs=2)
        >>> list(ddsdk.training.train(network, batch, protocol, ddsdk.generator(1)))
        [1, 2]
    """
    per_step.check(protocol, len(batch.x))
    augmentation = Augmentation(protocol.augmentation)
    optimizer, loss = _optimizer(network, protocol), LOSSES[protocol.loss]
    memory = MemoryFallback()
    per_epoch, shuffled = protocol.steps_in_epoch(len(batch.x)), protocol.order == "shuffled"
    network.train()
    for i in range(protocol.epochs):
        key = derive(rng, "epoch", i)
        minibatches = epoch(
            batch,
            protocol.batch_size,
            augmentation,
            key,
            mix=protocol.mix,
            shuffled=shuffled,
            # Each learned rate belongs to one batch of the stored order.
            join_single=uses_batch_statistics(network) and not any(per_step),
        )
        with seeded_layers(derive(key, "layers")):
            for step, minibatch in enumerate(minibatches, i * per_epoch):
                _set_rates(optimizer, protocol, per_step, step, per_epoch)
                if adversary is not None:
                    minibatch = _attacked(network, minibatch, loss, adversary, derive(key, "adversary", step))
                gradient_step(network, optimizer, minibatch, loss, memory=memory)
        yield i + 1


def _attacked(network: nn.Module, batch: Batch, loss: Loss, adversary: InputAttack, rng: torch.Generator) -> Batch:
    size = micro_batch(network, batch.x.device, len(batch.x))
    with evaluating_mode(network):
        attacked = [
            adversary(lambda x, y=batch.y[part]: loss(network(x), y), batch.x[part], derive(rng, part.start))  # type: ignore[misc]
            for part in pieces(len(batch.x), size)
        ]
    return Batch(torch.cat(attacked), batch.y)


def train_steps(network: nn.Module, batch: Batch, protocol: TrainingProtocol, steps: int, rng: torch.Generator) -> None:
    """Train a network in place for a given number of steps in the place of the epochs of the protocol.

    The learning-rate schedule of the protocol is scaled so that it ends with the last step.

    Args:
        network: Network from images (B, C, H, W) to logits (B, K).
        batch: Images and label rows of the whole set, in the value space.
        protocol: Training protocol; its `decay_at` and `warm_up` are fractions of `steps`.
        steps: Steps of the optimizer, at least 1.
        rng: Root of order and augmentation; epoch i has the random numbers of epoch i in `train`.

    Examples:
        >>> import ddsdk, torch
        >>> real = ddsdk.load("digits")
        >>> network = ddsdk.network_factory("convnet", real.image_shape, 10, width=4)(ddsdk.generator(0))
        >>> batch, protocol = real.batch(torch.arange(100)), ddsdk.TrainingProtocol()
        >>> ddsdk.training.train_steps(network, batch, protocol, 5, ddsdk.generator(1))
    """
    require_count("steps", steps)
    augmentation, shuffled = Augmentation(protocol.augmentation), protocol.order == "shuffled"
    optimizer, loss = _optimizer(network, protocol), LOSSES[protocol.loss]
    size, mix, memory = protocol.batch_size, protocol.mix, MemoryFallback()
    network.train()
    join_single = uses_batch_statistics(network)
    epochs = (
        epoch(batch, size, augmentation, derive(rng, "epoch", i), mix=mix, shuffled=shuffled, join_single=join_single)
        for i in itertools.count()
    )
    with seeded_layers(derive(rng, "layers")):
        for step, minibatch in enumerate(itertools.islice(itertools.chain.from_iterable(epochs), steps)):
            _set_rates(optimizer, protocol, PerStepSchedule(), step, steps / protocol.epochs)
            gradient_step(network, optimizer, minibatch, loss, memory=memory)


def _optimizer(network: nn.Module, protocol: TrainingProtocol) -> torch.optim.Optimizer:
    lr, decay = protocol.lr, protocol.weight_decay
    if protocol.optimizer == "adam":
        betas = (protocol.momentum, 0.999)
        return torch.optim.Adam(network.parameters(), lr=lr, betas=betas, weight_decay=decay)
    return torch.optim.SGD(network.parameters(), lr=lr, momentum=protocol.momentum, weight_decay=decay)


def _set_rates(
    optimizer: torch.optim.Optimizer, protocol: TrainingProtocol, per_step: PerStepSchedule, step: int, per_epoch: float
) -> None:
    (group,) = optimizer.param_groups
    group["lr"] = per_step.rates[step] if per_step.rates else protocol.rate_at(step, per_epoch)
    if per_step.momenta:
        # At a momentum of exactly 0, torch does not add the gradient of this step to its momentum buffer.
        group["momentum"] = max(per_step.momenta[step], _LEAST_MOMENTUM)
