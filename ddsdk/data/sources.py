"""Sources of batches: the interface `Source`, and real data, which implements it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from ddsdk.data.on_disk import DiskImages, Images, unit_range
from ddsdk.data.preprocess import WHITENING_SHARE, Preprocess, chunk_size
from ddsdk.foundation import derive, machine_memory, readable_bytes, require

T = TypeVar("T")
_CACHED_VALUES = 8
"""Maximum number of values in the cache of a data set."""


class Batch(NamedTuple):
    """Batch of images and labels.

    Attributes:
        x: Images in the value space of the data, (B, C, H, W).
        y: Label probabilities, (B, K), for hard, soft and learned labels alike.
    """

    x: Tensor
    y: Tensor


class Source(Protocol):
    """Interface of data from which batches are drawn, such as real data and synthetic sets."""

    @property
    def num_classes(self) -> int:
        """Number of classes K."""
        ...

    @property
    def device(self) -> torch.device:
        """Device of the batches and of the student networks."""
        ...

    def of_class(self, c: int, n: int, rng: torch.Generator) -> Batch:
        """Return at most `n` random items of class `c`, drawn without replacement."""
        ...

    def mixed(self, n: int, rng: torch.Generator) -> Batch:
        """Return at most `n` random items of any class, drawn without replacement."""
        ...


def sample_indices(candidates: Tensor, n: int, rng: torch.Generator) -> Tensor:
    """Return at most `n` random entries of a 1-d index tensor, drawn without replacement.

    If there are no more than `n` candidates, all of them are returned in their order, and `rng` is not advanced.

    Examples:
        >>> import ddsdk
        >>> import torch
        >>> ddsdk.data.sample_indices(torch.arange(100), 5, ddsdk.generator(0)).shape
        torch.Size([5])
        >>> ddsdk.data.sample_indices(torch.arange(3), 5, ddsdk.generator(0)).tolist()
        [0, 1, 2]
    """
    if len(candidates) <= n:
        return candidates
    return candidates[torch.randperm(len(candidates), generator=rng)[:n]]


class RealData:
    """Labelled images in memory or on disk, from which recipes draw real batches; `ddsdk.load` makes it.

    Subsets, splits and copies have the same class names, preprocessing and name, and the same values of `pictures`,
    `mirror_safe`, `held_out` and `reading`. TypeError is raised for a wrong dtype, and ValueError if a shape, label or
    pixel is out of range or a class has no images.

    Args:
        images: Images (N, C, H, W), uint8 in 0..255 or float in the unit range [0, 1], or a `DiskImages`. Images on
            disk stay there, also in subsets and splits; only batches are read.
        labels: Class ids, (N,) int64, with at least one image of each class 0..K-1, unless the data are held out.
        class_names: Names of the K classes.
        preprocess: Preprocessing from the unit range to the value space of the student networks.
        name: Name of the data in reports, on which no result depends.
        pictures: False for data without pictures, such as sentences of word vectors. Recipes then use no augmentation
            by default.
        mirror_safe: True if the mirror image of an image has the same class. Recipes mirror images by default only
            then; a mirrored 3, for example, is not a 3.
        held_out: True for test data, which may have no images of some classes.
        reading: Geometry, choice of classes and vocabulary of the reading of the data, as JSON values, which other data
            for the same networks need too; None for none.

    Examples:
        >>> import ddsdk
        >>> real = ddsdk.load("digits")
        >>> batch = real.of_class(3, 64, ddsdk.generator(0))
        >>> batch.x.shape, batch.y.shape
        (torch.Size([64, 1, 8, 8]), torch.Size([64, 10]))
    """

    def __init__(
        self,
        images: Images,
        labels: Tensor,
        *,
        class_names: Sequence[str],
        preprocess: Preprocess,
        name: str = "data",
        pictures: bool = True,
        mirror_safe: bool = False,
        held_out: bool = False,
        reading: Mapping[str, Any] | None = None,
    ) -> None:
        if isinstance(images, Tensor):
            _validate_images(images)
        _validate_labels(labels, len(images), class_names, held_out)
        self.name = name
        self.pictures = pictures
        self.mirror_safe = mirror_safe
        self.held_out = held_out
        self.reading = dict(reading or {})
        self.class_names = tuple(str(c) for c in class_names)
        self.preprocess = preprocess
        self.labels = labels
        self.stored = images.float() if isinstance(images, Tensor) and images.dtype != torch.uint8 else images
        self._index = [torch.nonzero(labels == c).flatten() for c in range(len(self.class_names))]
        self._cache: dict[Hashable, Any] = {}
        # Whitening is a large matrix product and is done once. A normalisation is cheap, and its result would take four
        # times the memory of uint8 images. Images on disk are whitened batch by batch.
        in_memory = isinstance(self.stored, Tensor)
        self._whitened = self._whitened_images() if preprocess.space == "zca" and in_memory else None

    @property
    def images(self) -> Tensor:
        """Images (N, C, H, W) in memory.

        Raises:
            ValueError: If the images are on disk, where `batch` and `unit_images` read them.
        """
        if isinstance(self.stored, DiskImages):
            raise ValueError(
                "data must be in memory for this use, got images on disk, which are read batch by batch; "
                "pass on_disk=False to load, or load a part of the data"
            )
        return self.stored

    @property
    def num_classes(self) -> int:
        """Number of classes K."""
        return len(self.class_names)

    @property
    def class_sizes(self) -> tuple[int, ...]:
        """Number of images of each class."""
        return tuple(len(i) for i in self._index)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Shape (C, H, W) of an image."""
        c, h, w = self.stored.shape[1:]
        return c, h, w

    @property
    def device(self) -> torch.device:
        """Device of all batches, and of the images unless they are on disk."""
        return self.labels.device if isinstance(self.stored, DiskImages) else self.stored.device

    @property
    def fingerprint(self) -> str:
        """SHA-256 of images, labels and class names as hex digits, computed once."""
        return self.computed_once("fingerprint", self._fingerprint)

    def _fingerprint(self) -> str:
        names = "\0".join(self.class_names).encode()
        if isinstance(self.stored, DiskImages):
            inputs = self.labels.cpu().numpy().tobytes() + names
            return str(self.stored.remembered("fingerprint", inputs, lambda: self._digest(names)))
        return self._digest(names)

    def _digest(self, names: bytes) -> str:
        digest = hashlib.sha256()
        size = chunk_size(math.prod(self.image_shape))
        for values, rows in ((self.stored, size), (self.labels, len(self))):
            digest.update(f"{values.dtype}{tuple(values.shape)}".encode())
            for start in range(0, len(self), rows):
                digest.update(values[start : start + rows].contiguous().cpu().numpy().data)
        digest.update(names)
        return digest.hexdigest()

    def _whitened_images(self) -> Tensor:
        needed, memory = 4 * len(self) * math.prod(self.image_shape), machine_memory() or math.inf
        limit = WHITENING_SHARE * memory
        rule = f"fit into half of this machine's memory, {readable_bytes(limit)}: leave out zca, or pass on_disk=True"
        require(needed <= limit, "whitened images", rule, f"{readable_bytes(needed)} ({needed} bytes)")
        whitened = torch.empty((len(self), *self.image_shape), device=self.device)
        for part in torch.split(torch.arange(len(self)), chunk_size(math.prod(self.image_shape))):
            whitened[part.to(self.device)] = self.preprocess(self.unit_images(part))
        return whitened

    def computed_once(self, key: Hashable, compute: Callable[[], T]) -> T:
        """Return the value of a function of the data; a cache stores the last eight values.

        Args:
            key: All inputs of the value other than the data.
            compute: Function that computes the value, which callers must not modify.
        """
        if key not in self._cache:
            self._cache[key] = compute()
            for old in list(self._cache)[:-_CACHED_VALUES]:
                del self._cache[old]
        value: T = self._cache[key]
        return value

    def replace_images_(self, index: Tensor, images: Tensor) -> None:
        """Replace the images at positions `index`, (M,) int64, in place.

        ValueError is raised for whitened data, because a whitened copy of its images is stored, and for images on disk.
        """
        space = self.preprocess.space
        require(space != "zca", "data", "not be whitened to be changed in place", space)
        self.images[index.to(self.device)] = images.to(self.images)
        self._cache.clear()

    @property
    def description(self) -> dict[str, Any]:
        """Name, fingerprint, number of images and reading, for the provenance record of a distilled set."""
        return {"name": self.name, "fingerprint": self.fingerprint, "images": len(self), **self.reading}

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.stored)

    def index_of_class(self, c: int) -> Tensor:
        """Return the positions of the images of class `c`, (N_c,) int64 on the CPU."""
        return self._index[c].cpu()

    def batch(self, index: Tensor) -> Batch:
        """Return the batch of the items at positions `index`, (B,) int64, in the value space."""
        index = index.to(self.device)
        x = self.preprocess(self.unit_images(index)) if self._whitened is None else self._whitened[index]
        return Batch(x, one_hot(self.labels[index], self.num_classes).to(x.dtype))

    def of_class(self, c: int, n: int, rng: torch.Generator) -> Batch:
        """Return at most `n` random images of class `c`, drawn without replacement."""
        return self.batch(sample_indices(self._index[c], n, rng))

    def mixed(self, n: int, rng: torch.Generator) -> Batch:
        """Return at most `n` random images of any class, drawn without replacement."""
        return self.batch(sample_indices(torch.arange(len(self)), n, rng))

    def subset(self, index: Tensor) -> RealData:
        """Return the images at positions `index`, (M,) int64, as real data with the same classes."""
        stored = self.stored
        images = stored.select(index) if isinstance(stored, DiskImages) else stored[index.to(self.device)]
        return self.with_items(images, self.labels[index.to(self.device)])

    def split(self, fraction: float, rng: torch.Generator) -> tuple[RealData, RealData]:
        """Return a random split, stratified by class, into train data and held-out data.

        Args:
            fraction: Fraction of the images of each class to hold out, in 0 < fraction < 1; at least one image.
            rng: Generator from whose seed the split derives; it is not advanced.
        """
        require(0 < fraction < 1, "fraction", "lie strictly between 0 and 1", fraction)
        require(min(self.class_sizes) > 1, "data", "have 2 images of each class to be split", self.class_sizes)
        class_parts = []
        for c in range(self.num_classes):
            n = max(1, min(self.class_sizes[c] - 1, round(fraction * self.class_sizes[c])))
            class_parts.append(sample_indices(self.index_of_class(c), n, derive(rng, "split", c)))
        held_out = torch.zeros(len(self), dtype=torch.bool)
        held_out[torch.cat(class_parts)] = True
        return self.subset(torch.nonzero(~held_out).flatten()), self.subset(torch.nonzero(held_out).flatten())

    def to(self, device: torch.device | str) -> RealData:
        """Return the data on `device`; images on disk stay there, and their batches are on `device`."""
        images = self.stored if isinstance(self.stored, DiskImages) else self.stored.to(device)
        return self.with_items(images, self.labels.to(device), self.preprocess.to(device))

    def with_preprocess(self, preprocess: Preprocess) -> RealData:
        """Return the data in another value space, such as that of a distilled set to be evaluated on the data."""
        return self.with_items(self.stored, self.labels, preprocess.to(self.device))

    def with_mirror_safe(self, mirror_safe: bool) -> RealData:
        """Return the data with another value of `mirror_safe`."""
        copy = self.with_items(self.stored, self.labels)
        copy.mirror_safe = mirror_safe
        return copy

    def with_items(self, images: Images, labels: Tensor, preprocess: Preprocess | None = None) -> RealData:
        """Return data with other images and labels, but the same classes, name, `pictures` and `mirror_safe`.

        Args:
            images: Images (N, C, H, W), uint8 or float in the unit range, or on disk.
            labels: Class ids of the images, (N,) int64.
            preprocess: Preprocessing of the images; None keeps that of the data.
        """
        return RealData(
            images,
            labels,
            class_names=self.class_names,
            preprocess=self.preprocess if preprocess is None else preprocess,
            name=self.name,
            pictures=self.pictures,
            mirror_safe=self.mirror_safe,
            held_out=self.held_out,
            reading=self.reading,
        )

    def unit_images(self, index: Tensor | None = None) -> Tensor:
        """Return images as floats (B, C, H, W) in the unit range: those at positions `index`, (B,) int64, or all."""
        if index is None:
            return unit_range(self.images)
        if isinstance(self.stored, DiskImages):
            return unit_range(self.stored[index.cpu()].to(self.device))
        return unit_range(self.stored[index.to(self.device)])


def _validate_images(images: Tensor) -> None:
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise TypeError(f"images must be uint8 or floating point, got {images.dtype}")
    require(images.ndim == 4 and 0 not in images.shape, "images", "have shape (N, C, H, W)", tuple(images.shape))
    if images.is_floating_point():
        invalid = ~torch.isfinite(images).flatten(1).all(1)
        if invalid.any():
            raise ValueError(f"images must be finite, got NaN or infinity in image {int(invalid.nonzero()[0])}")
        low, high = float(images.min()), float(images.max())
        require(low >= 0 and high <= 1, "images", "lie in the unit range [0, 1]", (low, high))


def _validate_labels(labels: Tensor, n: int, class_names: Sequence[str], held_out: bool) -> None:
    if labels.dtype != torch.int64:
        raise TypeError(f"labels must be int64, got {labels.dtype}")
    require(labels.shape == (n,), "labels", f"have one entry for each of the {n} images", tuple(labels.shape))
    k = len(class_names)
    require(k >= 1, "class_names", "name at least 1 class", list(class_names))
    low, high = int(labels.min()), int(labels.max())
    require(low >= 0 and high < k, "labels", f"lie in 0..{k - 1}", (low, high))
    if held_out:
        return
    counts = torch.bincount(labels, minlength=k)
    for c in torch.nonzero(counts == 0).flatten().tolist():
        raise ValueError(f"labels must hold every class, got no image of class {c} ({class_names[c]!r})")
