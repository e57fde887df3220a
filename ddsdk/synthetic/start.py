"""Starts of a synthetic set: noise, real images at random or chosen, or means of clusters."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ddsdk.data import RealData, choose, herding, k_means_centres, k_means_nearest
from ddsdk.foundation import derive, require

Start = Callable[[RealData, int, torch.Generator], Tensor]
"""`(real, ipc, rng) -> images`, (K*ipc, C, H, W) in the value space, class by class."""

Select = Callable[[Tensor, int, torch.Generator], Tensor]
"""`(features, n, rng) -> positions`."""


def class_slots(num_classes: int, ipc: int) -> Tensor:
    """Return the class of each slot, (K*ipc,) int64: `ipc` slots of class 0, then of class 1 ..."""
    return torch.arange(num_classes).repeat_interleave(ipc)


def check_ipc(real: RealData, ipc: int) -> None:
    """Raise ValueError unless every class holds at least `ipc` images."""
    require(ipc >= 1, "ipc", "be at least 1", ipc)
    for c, (size, name) in enumerate(zip(real.class_sizes, real.class_names, strict=True)):
        require(size >= ipc, "ipc", f"not exceed the {size} images of class {c} ({name!r})", ipc)


def noise(real: RealData, ipc: int, rng: torch.Generator) -> Tensor:
    """Draw standard normal pixels in the value space."""
    require(ipc >= 1, "ipc", "be at least 1", ipc)
    return torch.randn(real.num_classes * ipc, *real.image_shape, generator=rng).to(real.device)


def random_real(real: RealData, ipc: int, rng: torch.Generator) -> Tensor:
    """Draw real images of each class without replacement."""
    check_ipc(real, ipc)
    picks = [choose(real.index_of_class(c), ipc, derive(rng, c)) for c in range(real.num_classes)]
    return real.batch(torch.cat(picks)).x


def from_selection(select: Select) -> Start:
    """Return a start that takes the real images that `select` chooses by their pixels."""

    def start(real: RealData, ipc: int, rng: torch.Generator) -> Tensor:
        check_ipc(real, ipc)
        picks = []
        for c in range(real.num_classes):
            index = real.index_of_class(c)
            picks.append(index[select(real.batch(index).x.flatten(1), ipc, derive(rng, c))])
        return real.batch(torch.cat(picks)).x

    return start


def cluster_means(real: RealData, ipc: int, rng: torch.Generator) -> Tensor:
    """Return the means of `ipc` clusters of each class, by pixels; at ipc 1 the mean image of the class."""
    check_ipc(real, ipc)
    means = []
    for c in range(real.num_classes):
        pixels = real.batch(real.index_of_class(c)).x.flatten(1)
        means.append(k_means_centres(pixels, ipc, derive(rng, c)).to(pixels))
    return torch.cat(means).view(-1, *real.image_shape)


STARTS: dict[str, Start] = {
    "noise": noise,
    "real": random_real,
    "k-means": from_selection(k_means_nearest),
    "means": cluster_means,
    "herding": from_selection(lambda features, n, _: herding(features, n)),
}
