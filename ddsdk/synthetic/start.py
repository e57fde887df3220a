"""Initial images of synthetic sets: noise, random or selected real images, or means of clusters."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ddsdk.data import (
    RealData,
    herding,
    k_means_centres,
    k_means_nearest,
    map_in_pieces,
    pixel_features,
    sample_indices,
)
from ddsdk.foundation import derive, require

Start = Callable[[RealData, int, torch.Generator], Tensor]
"""Function `(real, ipc, rng) -> images`, (K*ipc, C, H, W) after preprocessing, sorted by class."""

Select = Callable[[Tensor, int, torch.Generator], Tensor]
"""Function `(features, n, rng) -> indices` that selects n of the feature rows."""


def class_slots(num_classes: int, ipc: int) -> Tensor:
    """Return the class of each slot, (K*ipc,) int64: first `ipc` slots of class 0, then of class 1 and so on.

    Examples:
        >>> from ddsdk.synthetic import class_slots
        >>> class_slots(3, 2).tolist()
        [0, 0, 1, 1, 2, 2]
    """
    return torch.arange(num_classes).repeat_interleave(ipc)


def check_ipc(real: RealData, ipc: int) -> None:
    """Raise ValueError unless `ipc` is at least 1 and each class has at least `ipc` images."""
    require(ipc >= 1, "ipc", "be at least 1", ipc)
    way_out = "or take --small-classes repeat (in Python ddsdk.data.repeat_small_classes)"
    for c, (size, name) in enumerate(zip(real.class_sizes, real.class_names, strict=True)):
        require(size >= ipc, "ipc", f"not exceed the {size} images of class {c} ({name!r}), {way_out}", ipc)


def noise(real: RealData, ipc: int, rng: torch.Generator) -> Tensor:
    """Return standard normal noise in the space of preprocessed images."""
    require(ipc >= 1, "ipc", "be at least 1", ipc)
    return torch.randn(real.num_classes * ipc, *real.image_shape, generator=rng).to(real.device)


def random_real(real: RealData, ipc: int, rng: torch.Generator) -> Tensor:
    """Return random real images of each class, drawn without replacement."""
    check_ipc(real, ipc)
    indices = [sample_indices(real.index_of_class(c), ipc, derive(rng, c)) for c in range(real.num_classes)]
    return real.batch(torch.cat(indices)).x


def from_selection(select: Select) -> Start:
    """Return a start of real images that `select` chooses by their pixels."""

    def start(real: RealData, ipc: int, rng: torch.Generator) -> Tensor:
        check_ipc(real, ipc)
        indices = []
        for c in range(real.num_classes):
            class_indices = real.index_of_class(c)
            features = pixel_features(real, class_indices)
            indices.append(class_indices[select(features, ipc, derive(rng, c))])
        return real.batch(torch.cat(indices)).x

    return start


def cluster_means(real: RealData, ipc: int, rng: torch.Generator) -> Tensor:
    """Return the means of `ipc` k-means clusters of the pixels of each class; at ipc 1 the mean image of the class."""
    check_ipc(real, ipc)
    means = [_class_means(real, real.index_of_class(c), ipc, derive(rng, c)) for c in range(real.num_classes)]
    return torch.cat(means).view(-1, *real.image_shape)


def _class_means(real: RealData, index: Tensor, ipc: int, rng: torch.Generator) -> Tensor:
    features, values = pixel_features(real, index), math.prod(real.image_shape)
    centres = k_means_centres(features, ipc, rng)
    if features.shape[1] == values:
        return centres.to(features)
    # The features are averages of neighbouring pixels: the means of the clusters take a second pass over the images.
    owner = torch.cdist(features, centres.to(features)).argmin(1)
    sums = torch.zeros(ipc, values, dtype=torch.float64, device=real.device)
    start = 0

    def add(images: Tensor) -> Tensor:
        nonlocal start
        sums.index_add_(0, owner[start : start + len(images)], images.flatten(1).double())
        start += len(images)
        return images.new_empty(len(images), 0)

    map_in_pieces(real, index, lambda batch: add(batch.x))
    return (sums / torch.bincount(owner, minlength=ipc).clamp_min(1)[:, None]).to(features)


STARTS: dict[str, Start] = {
    "noise": noise,
    "real": random_real,
    "k-means": from_selection(k_means_nearest),
    "means": cluster_means,
    "herding": from_selection(lambda features, n, _: herding(features, n)),
}
"""Initialisations by their name in recipes."""
