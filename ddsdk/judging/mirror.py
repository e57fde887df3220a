"""A measured answer to whether images may be mirrored."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from ddsdk.data import RealData
from ddsdk.foundation import derive, require, root
from ddsdk.networks import network_factory
from ddsdk.training import Evaluation, accuracy, train

_IMAGES = 500
"""Images of each class at most: more would take minutes and change nothing."""


class MirrorCheck(NamedTuple):
    """Accuracy of a small network on held-out images and on their mirror images.

    Attributes:
        plain: Accuracy on the held-out images, in 0..1.
        mirrored: Accuracy on their mirror images, in 0..1.
        images: Number of held-out images.
    """

    plain: float
    mirrored: float
    images: int

    @property
    def safe(self) -> bool:
        """Whether the accuracy on mirror images is lower by at most one point and two standard errors."""
        error = math.sqrt(max(self.plain * (1 - self.plain), 1e-4) * 2 / self.images)
        return self.plain - self.mirrored <= 0.01 + 2 * error


def mirror_check(
    real: RealData, *, held_out: float = 0.25, seed: int | torch.Generator = 0, epochs: int = 20
) -> MirrorCheck:
    """Train a small ConvNet on images as they are, and test it on held-out images and on their mirror images.

    Args:
        real: Pictures, 2 or more of each class; at most 500 of each class are used.
        held_out: Part of them that is tested, in (0, 1).
        seed: Root of every random number: an integer, or a generator, which is not advanced.
        epochs: Passes of the network over the rest.

    Example:
        >>> import ddsdk
        >>> train, _ = ddsdk.load_pair("digits")
        >>> ddsdk.judging.mirror_check(train, epochs=5).safe
        False
    """
    require(real.pictures, "real", "hold pictures", real.name)
    rng = root(seed)
    few = real.subset(torch.cat([real.index_of_class(c)[:_IMAGES] for c in range(real.num_classes)]))
    rest, held = few.split(held_out, derive(rng, "split"))
    make = network_factory("convnet", real.image_shape, real.num_classes, width=32)
    network = make(derive(rng, "init")).to(real.device)
    protocol = Evaluation(protocol="mirror check", epochs=epochs, lr=0.03, augmentation="crop")
    for _ in train(network, rest.batch(torch.arange(len(rest))), protocol, derive(rng, "train")):
        pass
    images = held.batch(torch.arange(len(held))).x
    plain, mirrored = (accuracy(network, x, held.labels) for x in (images, images.flip(3)))
    return MirrorCheck(plain, mirrored, len(held))
