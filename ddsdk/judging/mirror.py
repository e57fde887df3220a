"""A measurement of whether mirroring images keeps their classes."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from ddsdk.data import RealData
from ddsdk.foundation import as_generator, derive, require
from ddsdk.networks import network_factory
from ddsdk.training import TrainingProtocol, accuracy, train

_IMAGES = 500
"""Largest number of images of each class; more would take minutes and not change the result."""


class MirrorCheck(NamedTuple):
    """Accuracies of a small network on held-out images and on their mirror images.

    Attributes:
        plain: Accuracy on the held-out images, in 0..1.
        mirrored: Accuracy on the mirror images, in 0..1.
        images: Number of held-out images.
    """

    plain: float
    mirrored: float
    images: int

    @property
    def safe(self) -> bool:
        """Whether the accuracy on mirror images is lower by at most one percentage point plus two standard errors."""
        error = math.sqrt(max(self.plain * (1 - self.plain), 1e-4) * 2 / self.images)
        return self.plain - self.mirrored <= 0.01 + 2 * error


def mirror_check(
    real: RealData, *, held_out: float = 0.25, seed: int | torch.Generator = 0, epochs: int = 20
) -> MirrorCheck:
    """Train a small ConvNet without mirroring, and test it on held-out images and on their mirror images.

    Mirroring is safe as augmentation where both accuracies are equal: a mirrored 3 is no 3.

    Args:
        real: Pictures, at least 2 of each class; at most 500 of each class are used.
        held_out: Fraction of the images that is tested, in (0, 1).
        seed: Root of all random numbers: an integer, or a generator, which is not advanced.
        epochs: Number of epochs of the network on the other images.

    Returns:
        Both accuracies, and whether mirroring is safe.

    Examples:
        >>> import ddsdk
        >>> train, _ = ddsdk.load_pair("digits")
        >>> ddsdk.judging.mirror_check(train, epochs=5).safe
        False
    """
    require(real.pictures, "real", "hold pictures", real.name)
    rng = as_generator(seed)
    subset = real.subset(torch.cat([real.index_of_class(c)[:_IMAGES] for c in range(real.num_classes)]))
    training, held = subset.split(held_out, derive(rng, "split"))
    make = network_factory("convnet", real.image_shape, real.num_classes, width=32)
    network = make(derive(rng, "init")).to(real.device)
    protocol = TrainingProtocol(name="mirror check", epochs=epochs, lr=0.03, augmentation="crop")
    for _ in train(network, training.batch(torch.arange(len(training))), protocol, derive(rng, "train")):
        pass
    images = held.batch(torch.arange(len(held))).x
    plain, mirrored = (accuracy(network, x, held.labels) for x in (images, images.flip(3)))
    return MirrorCheck(plain, mirrored, len(held))
