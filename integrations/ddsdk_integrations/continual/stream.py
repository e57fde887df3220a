"""Conversion between Avalanche data sets, the uint8 images of the memory, and a queue of real images from a stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, NamedTuple, final

import torch
from avalanche.benchmarks.utils import AvalancheDataset, as_classification_dataset
from avalanche.benchmarks.utils.classification_dataset import TaskAwareSupervisedClassificationDataset
from avalanche.benchmarks.utils.data_attribute import DataAttribute, TaskLabels
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

import ddsdk as dd
from ddsdk.artefact import to_bytes
from ddsdk.foundation import PositiveInt, check_numbers, require, require_count
from ddsdk_integrations.continual.memory import Key, MemoryPart

# Black and white are estimated from the first experience, so later images may leave the unit range by this much.
_TOLERANCE = 0.02


@final
@dataclass(frozen=True)
class ReplayOptions:
    """Options of the data set that a memory offers to the training of the learner.

    Attributes:
        fill: Smallest length of the data set; a smaller memory is repeated. Avalanche takes at most as many replayed
            images into a batch as the data set holds, so an unrepeated small memory has a small share of the loss.
        augmentation: DSA operations joined by "_", drawn for each replayed image in addition to the augmentation of
            the stream; empty for none.
        soft: Number of classes K of soft labels, at least 2; each replayed image then has a row of K probabilities,
            which `SoftLabelPlugin` collates with the class ids of the stream. None for class ids.

    Examples:
        >>> from ddsdk_integrations.continual import ReplayOptions
        >>> ReplayOptions(fill=32, augmentation="crop_flip")
        ReplayOptions(fill=32, augmentation='crop_flip', soft=None)
    """

    _: KW_ONLY
    fill: PositiveInt = 1
    augmentation: str = ""
    soft: int | None = None

    def __post_init__(self) -> None:
        check_numbers(self)
        # Construction raises the error of an unknown operation.
        dd.Augmentation(self.augmentation)
        if self.soft is not None:
            require_count("soft", self.soft, 2)


@final
@dataclass(frozen=True)
class Schema:
    """Types of the items of a stream, shared by the items of the memory.

    Attributes:
        tensors: Whether labels are tensors instead of plain integers.
        tasks: Whether items end with a task label.
    """

    tensors: bool
    tasks: bool

    @classmethod
    def of(cls, dataset: AvalancheDataset[Any]) -> Schema:
        """Return the schema of a data set with at least one item (x, y) or (x, y, task)."""
        item = dataset[0]
        require(len(item) in (2, 3), "dataset", "have items (x, y) or (x, y, task)", f"{len(item)} elements")
        return cls(tensors=isinstance(item[1], Tensor), tasks=len(item) == 3)


class NewSamples(NamedTuple):
    """Real images of an experience on the CPU.

    Attributes:
        images: Images, (N, C, H, W) uint8, whose values 0 to 255 are the unit range.
        keys: Task label and class id of each image.
    """

    images: Tensor
    keys: tuple[Key, ...]


def value_space(dataset: AvalancheDataset[Any]) -> dd.Preprocess:
    """Return the affine map from the unit range to the values of a stream, from the extremes of each channel.

    The map is exact if every channel has a black and a white pixel. A constant channel raises a ValueError.
    """
    low = high = None
    for item in dataset.eval():
        channels = item[0].flatten(1)
        minimum, maximum = channels.amin(1), channels.amax(1)
        low = minimum if low is None else torch.minimum(low, minimum)
        high = maximum if high is None else torch.maximum(high, maximum)
    require(low is not None, "dataset", "hold an image", 0)
    assert low is not None and high is not None
    rule = "vary in every channel, or preprocess must be given"
    require(bool((high > low).all()), "dataset", rule, (low, high))
    width = (high - low).tolist()
    # (u - mean) / std with mean = -low / width and std = 1 / width is low + width * u.
    mean = [-a / w for a, w in zip(low.tolist(), width, strict=True)]
    return dd.Preprocess.normalise(mean, [1 / w for w in width])


def new_samples(dataset: AvalancheDataset[Any], preprocess: dd.Preprocess) -> NewSamples:
    """Return the images of a data set in the unit range, with its evaluation transforms and without augmentation.

    Values more than 0.02 outside the unit range raise a ValueError.
    """
    images, keys = [], []
    for item in dataset.eval():
        unit = preprocess.inverse(item[0].detach().cpu()[None])[0]
        low, high = float(unit.min()), float(unit.max())
        rule = "map the stream to the unit range"
        require(low >= -_TOLERANCE and high <= 1 + _TOLERANCE, "preprocess", rule, (low, high))
        images.append(to_bytes(unit))
        keys.append((int(item[2]) if len(item) > 2 else 0, int(item[1])))
    return NewSamples(torch.stack(images), tuple(keys))


@final
class MemoryImages(Dataset[Any]):
    """Data set of the images of memory parts, which are decoded at each access.

    Args:
        parts: Parts of a memory.
        preprocess: Map from the unit range to the values of the stream.
        schema: Types of the items of the stream.
        replay: Options of repetition, augmentation and label form.
        seed: Seed of the augmentation.
    """

    def __init__(
        self, parts: Sequence[MemoryPart], preprocess: dd.Preprocess, schema: Schema, replay: ReplayOptions, seed: int
    ) -> None:
        self._parts, self._preprocess, self._schema = list(parts), preprocess, schema
        self._rows = None if replay.soft is None else [part.rows(replay.soft) for part in parts]
        self._augment = dd.Augmentation(replay.augmentation)
        self._seed, self._accesses = seed, 0
        once = [(p, i) for p, part in enumerate(parts) for i in range(len(part) * part.codec.images_per_item)]
        self._places = once * (-(-replay.fill // len(once)) if once else 1)
        self.targets = [self._parts[p].key[1] for p, _ in self._places]
        self.tasks = [self._parts[p].key[0] for p, _ in self._places]

    def __len__(self) -> int:
        """Return the number of images, repetitions included."""
        return len(self._places)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        """Return (image, label): (C, H, W) in the value space, and a class id or a row of probabilities."""
        p, i = self._places[index]
        part = self._parts[p]
        item, within = divmod(i, part.codec.images_per_item)
        x = self._preprocess(part.images_of(item)[within : within + 1])
        if self._augment.groups:
            # Worker processes start from copies of this counter; the worker's seed separates their draws and passes.
            self._accesses += 1
            worker = get_worker_info()
            rng = dd.generator("replay", self._seed, 0 if worker is None else worker.seed, self._accesses)
            x = self._augment.per_image(1, rng)(x)
        label: Any = self.targets[index] if self._rows is None else self._rows[p][i]
        return x[0], torch.tensor(label) if self._schema.tensors and self._rows is None else label


def as_avalanche(items: MemoryImages, schema: Schema) -> AvalancheDataset[Any]:
    """Return memory images as an Avalanche data set that can be concatenated with those of the stream."""
    if not schema.tasks:
        return as_classification_dataset(items)
    attributes = [DataAttribute(items.targets, "targets"), TaskLabels(items.tasks)]
    return TaskAwareSupervisedClassificationDataset([items], data_attributes=attributes)


@final
@dataclass(frozen=True)
class Streaming:
    """Schedule of distillations in an online stream of small pieces, with or without known task boundaries.

    Attributes:
        every: Number of pieces between two distillations. If the stream marks the start of a new experience, the
            queued images of the previous one are distilled first.
        room: Capacity of the queue of real images; a fuller queue is a reservoir sample, in which every image since
            the last distillation is kept with the same probability.

    Examples:
        >>> from ddsdk_integrations.continual import Streaming
        >>> Streaming(every=10, room=500)
        Streaming(every=10, room=500)
    """

    _: KW_ONLY
    every: PositiveInt = 20
    room: PositiveInt = 1000

    def __post_init__(self) -> None:
        check_numbers(self)


@final
class Queue:
    """Reservoir sample of the real images that arrived since the last distillation.

    Args:
        room: Largest number of images.
        seed: Seed of the reservoir sampling.

    Attributes:
        pieces: Number of pieces since the last distillation.
    """

    def __init__(self, room: int, seed: int) -> None:
        self._room, self._seed = room, seed
        self._arrivals = self._emptied = self.pieces = 0
        self._samples: NewSamples | None = None

    def __len__(self) -> int:
        """Return the number of images in the queue."""
        return 0 if self._samples is None else len(self._samples.keys)

    def add(self, piece: NewSamples) -> None:
        """Add the images of a piece of the stream."""
        self.pieces += 1
        old, queued = self._samples, len(self)
        images = piece.images if old is None else torch.cat([old.images, piece.images])
        keys = piece.keys if old is None else old.keys + piece.keys
        places = list(range(queued))
        # Reservoir sampling: arrival n replaces a random image with probability room / n.
        for i in range(queued, len(keys)):
            self._arrivals += 1
            if len(places) < self._room:
                places.append(i)
                continue
            rng = dd.generator("queue", self._seed, self._emptied, self._arrivals)
            place = int(torch.randint(self._arrivals, (), generator=rng))
            if place < self._room:
                places[place] = i
        self._samples = NewSamples(images[places].clone(), tuple(keys[i] for i in places))

    def empty(self) -> NewSamples | None:
        """Return the images of the queue and remove them; None if the queue is empty."""
        samples, self._samples = self._samples, None
        self._arrivals = self.pieces = 0
        self._emptied += 1
        return samples

    def to_state(self) -> dict[str, Any]:
        """Return the queue as a dictionary of tensors and plain values."""
        waiting = None if self._samples is None else tuple(self._samples)
        return {"came": self._arrivals, "emptied": self._emptied, "pieces": self.pieces, "waiting": waiting}

    def load(self, state: Mapping[str, Any]) -> None:
        """Restore the state of `to_state`; more images than the capacity raise a ValueError."""
        self._arrivals, self._emptied, self.pieces = state["came"], state["emptied"], state["pieces"]
        waiting = state["waiting"]
        self._samples = None if waiting is None else NewSamples(*waiting)
        require(len(self) <= self._room, "room", f"hold the {len(self)} queued images", self._room)
