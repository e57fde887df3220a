"""Sources of batches: the `Source` protocol, and the real data that satisfies it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from ddsdk.data.preprocess import Preprocess
from ddsdk.foundation import derive, require

T = TypeVar("T")
_KNOWN = 8
"""Computed values that are kept with the data."""


class Batch(NamedTuple):
    """Inputs and their labels.

    Attributes:
        x: Images, (B, C, H, W), in the value space of the data.
        y: Labels, (B, K) probabilities. Hard, soft and learned labels are one type.
    """

    x: Tensor
    y: Tensor


class Source(Protocol):
    """Interface of real data and of synthetic sets that give batches."""

    @property
    def num_classes(self) -> int:
        """Number of classes K."""
        ...

    @property
    def device(self) -> torch.device:
        """Device of the batches and of the students."""
        ...

    def of_class(self, c: int, n: int, rng: torch.Generator) -> Batch:
        """Draw at most `n` items of class `c` without replacement."""
        ...

    def mixed(self, n: int, rng: torch.Generator) -> Batch:
        """Draw at most `n` items of any class without replacement."""
        ...


def choose(candidates: Tensor, n: int, rng: torch.Generator) -> Tensor:
    """Draw `min(n, len(candidates))` entries of a 1-d index tensor without replacement.

    All candidates come back in their own order where they do not outnumber `n`.
    """
    if len(candidates) <= n:
        return candidates
    return candidates[torch.randperm(len(candidates), generator=rng)[:n]]


class RealData:
    """A labelled image data set that lives on one device as one tensor, with an index for each class.

    Class names, value space, name and facts of the images stay with every subset, split and copy.

    Args:
        images: Images (N, C, H, W), uint8 in 0..255 or float in the unit range [0, 1].
        labels: Class ids (N,) int64. Every class 0..K-1 needs at least one image.
        class_names: Names of the K classes.
        preprocess: Map from the unit range to the value space of the students.
        name: Label of the data in reports. Nothing else depends on it.
        pictures: False for matrices that are no pictures, such as sentences of word vectors: recipes then augment them
            in no way that the caller does not name.
        mirror_safe: Whether the mirror image of an image has the same class. Recipes mirror images by default only
            where it has: a mirrored 3 is no 3.

    Raises:
        TypeError: If `images` or `labels` has the wrong dtype.
        ValueError: If a shape, a label or a pixel is out of range, or a class has no image.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        class_names: Sequence[str],
        preprocess: Preprocess,
        name: str = "data",
        pictures: bool = True,
        mirror_safe: bool = False,
    ) -> None:
        _validate_images(images)
        _validate_labels(labels, len(images), class_names)
        self.name = name
        self.pictures = pictures
        self.mirror_safe = mirror_safe
        self.class_names = tuple(str(c) for c in class_names)
        self.preprocess = preprocess
        self.labels = labels
        self.images = images if images.dtype == torch.uint8 else images.float()
        self._index = [torch.nonzero(labels == c).flatten() for c in range(len(self.class_names))]
        self._known: dict[Hashable, Any] = {}
        # Whitening is a large matrix product: pay for it once. A normalisation is cheaper than four times the memory.
        self._whitened = preprocess(self.unit_images()) if preprocess.space == "zca" else None

    @property
    def num_classes(self) -> int:
        """Number of classes K."""
        return len(self.class_names)

    @property
    def class_sizes(self) -> tuple[int, ...]:
        """Images of each class."""
        return tuple(len(i) for i in self._index)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Shape (C, H, W) of an image."""
        c, h, w = self.images.shape[1:]
        return c, h, w

    @property
    def device(self) -> torch.device:
        """Device of the images, and so of everything computed from them."""
        return self.images.device

    @property
    def fingerprint(self) -> str:
        """SHA-256 of images, labels and class names, in hex; it is computed once."""
        return self.computed_once("fingerprint", self._fingerprint)

    def _fingerprint(self) -> str:
        digest = hashlib.sha256()
        for t in (self.images, self.labels):
            digest.update(f"{t.dtype}{tuple(t.shape)}".encode())
            digest.update(t.contiguous().cpu().numpy().data)
        digest.update("\0".join(self.class_names).encode())
        return digest.hexdigest()

    def computed_once(self, key: Hashable, compute: Callable[[], T]) -> T:
        """Return the value of `compute` for these images, from memory where it is among the last eight.

        Args:
            key: Everything that the value depends on, beside the data.
            compute: Function of the data and the key. Its value must not be changed.
        """
        if key not in self._known:
            self._known[key] = compute()
            for old in list(self._known)[:-_KNOWN]:
                del self._known[old]
        found: T = self._known[key]
        return found

    def replace_images_(self, index: Tensor, images: Tensor) -> None:
        """Replace the stored images at `index`, (M,) int64, in place; whitened data, which keeps copies, is refused."""
        space = self.preprocess.space
        require(space != "zca", "data", "not be whitened to be changed in place", space)
        self.images[index.to(self.device)] = images.to(self.images)
        self._known.clear()

    @property
    def description(self) -> dict[str, Any]:
        """Name, fingerprint and number of images, for the provenance of a set."""
        return {"name": self.name, "fingerprint": self.fingerprint, "images": len(self)}

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    def index_of_class(self, c: int) -> Tensor:
        """Return the positions of class `c`, (N_c,) int64 on the CPU."""
        return self._index[c].cpu()

    def batch(self, index: Tensor) -> Batch:
        """Return the items at `index`, (B,) int64, in the value space."""
        index = index.to(self.device)
        x = self.preprocess(self.unit_images(index)) if self._whitened is None else self._whitened[index]
        return Batch(x, one_hot(self.labels[index], self.num_classes).to(x.dtype))

    def of_class(self, c: int, n: int, rng: torch.Generator) -> Batch:
        """Draw at most `n` images of class `c` without replacement."""
        return self.batch(choose(self._index[c], n, rng))

    def mixed(self, n: int, rng: torch.Generator) -> Batch:
        """Draw at most `n` images of any class without replacement."""
        return self.batch(choose(torch.arange(len(self)), n, rng))

    def subset(self, index: Tensor) -> RealData:
        """Return the images at `index`, (M,) int64, as real data with the same classes."""
        index = index.to(self.device)
        return self.with_items(self.images[index], self.labels[index])

    def split(self, fraction: float, rng: torch.Generator) -> tuple[RealData, RealData]:
        """Split class by class into (the rest, `fraction` of each class held out, at least one image)."""
        require(0 < fraction < 1, "fraction", "lie strictly between 0 and 1", fraction)
        require(min(self.class_sizes) > 1, "data", "have 2 images of each class to be split", self.class_sizes)
        held = []
        for c in range(self.num_classes):
            n = max(1, min(self.class_sizes[c] - 1, round(fraction * self.class_sizes[c])))
            held.append(choose(self.index_of_class(c), n, derive(rng, "split", c)))
        out = torch.zeros(len(self), dtype=torch.bool)
        out[torch.cat(held)] = True
        return self.subset(torch.nonzero(~out).flatten()), self.subset(torch.nonzero(out).flatten())

    def to(self, device: torch.device | str) -> RealData:
        """Return the data on `device`."""
        return self.with_items(self.images.to(device), self.labels.to(device), self.preprocess.to(device))

    def with_preprocess(self, preprocess: Preprocess) -> RealData:
        """Return the same images in another value space, such as that of a set to be judged on them."""
        return self.with_items(self.images, self.labels, preprocess.to(self.device))

    def with_mirror_safe(self, mirror_safe: bool) -> RealData:
        """Return the same images with another answer to whether they may be mirrored."""
        same = self.with_items(self.images, self.labels)
        same.mirror_safe = mirror_safe
        return same

    def with_items(self, images: Tensor, labels: Tensor, preprocess: Preprocess | None = None) -> RealData:
        """Return data of other items with the same classes and facts.

        Args:
            images: Images (N, C, H, W), uint8 or float in the unit range.
            labels: Class ids (N,) int64.
            preprocess: Map to the value space; None keeps that of the data.
        """
        return RealData(
            images,
            labels,
            class_names=self.class_names,
            preprocess=self.preprocess if preprocess is None else preprocess,
            name=self.name,
            pictures=self.pictures,
            mirror_safe=self.mirror_safe,
        )

    def unit_images(self, index: Tensor | None = None) -> Tensor:
        """Return the images at `index`, (B,) int64, or all of them, in the unit range: (B, C, H, W) floats."""
        images = self.images if index is None else self.images[index.to(self.device)]
        return images.float().div_(255) if images.dtype == torch.uint8 else images


def _validate_images(images: Tensor) -> None:
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise TypeError(f"images must be uint8 or floating point, got {images.dtype}")
    require(images.ndim == 4 and 0 not in images.shape, "images", "have shape (N, C, H, W)", tuple(images.shape))
    if images.is_floating_point():
        bad = ~torch.isfinite(images).flatten(1).all(1)
        if bad.any():
            raise ValueError(f"images must be finite, got NaN or infinity in image {int(bad.nonzero()[0])}")
        low, high = float(images.min()), float(images.max())
        require(low >= 0 and high <= 1, "images", "lie in the unit range [0, 1]", (low, high))


def _validate_labels(labels: Tensor, n: int, class_names: Sequence[str]) -> None:
    if labels.dtype != torch.int64:
        raise TypeError(f"labels must be int64, got {labels.dtype}")
    require(labels.shape == (n,), "labels", f"have one entry for each of the {n} images", tuple(labels.shape))
    k = len(class_names)
    require(k >= 1, "class_names", "name at least 1 class", list(class_names))
    low, high = int(labels.min()), int(labels.max())
    require(low >= 0 and high < k, "labels", f"lie in 0..{k - 1}", (low, high))
    counts = torch.bincount(labels, minlength=k)
    for c in torch.nonzero(counts == 0).flatten().tolist():
        raise ValueError(f"labels must hold every class, got no image of class {c} ({class_names[c]!r})")
