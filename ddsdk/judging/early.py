"""Choice of the epoch of a training by its accuracy on real training images."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import torch
from torch import nn

from ddsdk.data import RealData
from ddsdk.foundation import derive
from ddsdk.training import EarlyStopping


def stopping_images(train: RealData, stopping: EarlyStopping, rng: torch.Generator) -> RealData:
    """Return the real training images that choose the epoch, equally many of each class (one more of the first ones).

    Args:
        train: Real training data of the set's classes.
        stopping: Settings of the protocol.
        rng: Root of the choice; it is not advanced.

    Raises:
        ValueError: If a class has too few images.

    Examples:
        >>> import ddsdk
        >>> from ddsdk.judging import stopping_images
        >>> from ddsdk.training import EarlyStopping
        >>> train = ddsdk.load("digits")
        >>> len(stopping_images(train, EarlyStopping(images=55), ddsdk.generator(0)))
        55
    """
    positions = []
    for c in range(train.num_classes):
        count = stopping.images // train.num_classes + (c < stopping.images % train.num_classes)
        index = train.index_of_class(c)
        if len(index) < count:
            raise ValueError(
                f"early_stopping must find {count} training images of class {train.class_names[c]!r}, got {len(index)}"
            )
        order = torch.randperm(len(index), generator=derive(rng, "early stopping", c))
        positions.append(index[order[:count]])
    return train.subset(torch.cat(positions).sort().values)


def stopped_early(
    network: nn.Module, epochs: Iterator[int], stopping: EarlyStopping, accuracy: Callable[[nn.Module], float]
) -> Iterator[int]:
    """Yield the finished epochs of a training; at the end the network has the weights of the best check.

    Of equal checks the first one counts.

    Args:
        network: Network that is trained in place.
        epochs: Training that yields the number of finished epochs.
        stopping: Settings of the checks.
        accuracy: Function from the network to its accuracy, 0..1, on the real training images.

    Yields:
        The number of finished epochs.
    """
    best, best_epoch, weights = accuracy(network), 0, copy.deepcopy(network.state_dict())
    for done in epochs:
        if done % stopping.every == 0:
            found = accuracy(network)
            if found > best:
                best, best_epoch, weights = found, done, copy.deepcopy(network.state_dict())
        if stopping.patience is not None and done - best_epoch >= stopping.patience:
            break
        yield done
    network.load_state_dict(weights)
