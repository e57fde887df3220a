"""Avalanche's items as uint8 images, a queue for a stream of them, and a memory as one of Avalanche's data sets."""

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
from ddsdk_integrations.continual.memory import Key, Part

_SLACK = 0.02


@final
@dataclass(frozen=True)
class Replay:
    """Form of a memory for training.

    Attributes:
        fill: Smallest number of items of the data set, reached by repeating them all: Avalanche takes at most as many
            memory items into a batch as there are, so a memory smaller than its batch has a small share of the loss.
        augmentation: DSA operations joined by "_" on each replayed image, apart from those of the stream; empty for
            none.
        soft: Number of classes of a soft label. Items then have rows of probabilities for labels, which the plugin
            `SoftLabels` brings into one batch with the stream's; None for class ids.
    """

    _: KW_ONLY
    fill: PositiveInt = 1
    augmentation: str = ""
    soft: int | None = None

    def __post_init__(self) -> None:
        check_numbers(self)
        dd.Augmentation(self.augmentation)
        if self.soft is not None:
            require_count("soft", self.soft, 2)


@final
@dataclass(frozen=True)
class Schema:
    """Form of the items of a stream, which those of the memory share.

    Attributes:
        tensors: Whether labels are tensors and no plain integers.
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


class Arrivals(NamedTuple):
    """Real images of a moment, on the CPU: (N, C, H, W) uint8 of the unit range, and the key of each."""

    images: Tensor
    keys: tuple[Key, ...]


def value_space(dataset: AvalancheDataset[Any]) -> dd.Preprocess:
    """Return the affine map from the unit range to the values of a stream, from the extremes of each channel.

    It is exact where some pixel of each channel is black and some is white.

    Raises:
        ValueError: If a channel is constant.
    """
    low = high = None
    for item in dataset.eval():
        channels = item[0].flatten(1)
        least, most = channels.amin(1), channels.amax(1)
        low = least if low is None else torch.minimum(low, least)
        high = most if high is None else torch.maximum(high, most)
    require(low is not None, "dataset", "hold an image", 0)
    assert low is not None and high is not None
    require(bool((high > low).all()), "dataset", "vary in every channel; name its preprocess", (low, high))
    width = (high - low).tolist()
    mean = [-a / w for a, w in zip(low.tolist(), width, strict=True)]
    return dd.Preprocess.normalise(mean, [1 / w for w in width])


def arrivals(dataset: AvalancheDataset[Any], preprocess: dd.Preprocess) -> Arrivals:
    """Return the items of a stream in the unit range, with the transformations of its evaluation: no augmentation.

    Raises:
        ValueError: If values leave the unit range by more than some hundredths.
    """
    images, keys = [], []
    for item in dataset.eval():
        unit = preprocess.inverse(item[0].detach().cpu()[None])[0]
        low, high = float(unit.min()), float(unit.max())
        rule = "map the stream to the unit range"
        require(low >= -_SLACK and high <= 1 + _SLACK, "preprocess", rule, (low, high))
        images.append(to_bytes(unit))
        keys.append((int(item[2]) if len(item) > 2 else 0, int(item[1])))
    return Arrivals(torch.stack(images), tuple(keys))


@final
class Items(Dataset[Any]):
    """The images of some parts, unpacked anew at each access.

    Args:
        parts: Parts of a memory.
        preprocess: Map from the unit range to the values of the stream.
        schema: Form of the items of the stream.
        replay: Form of images and labels.
        seed: Root of the augmentation.
    """

    def __init__(
        self, parts: Sequence[Part], preprocess: dd.Preprocess, schema: Schema, replay: Replay, seed: int
    ) -> None:
        self._parts, self._preprocess, self._schema = list(parts), preprocess, schema
        self._rows = None if replay.soft is None else [part.rows(replay.soft) for part in parts]
        self._augment = dd.Augmentation(replay.augmentation)
        self._seed, self._looks = seed, 0
        single = [(p, i) for p, part in enumerate(parts) for i in range(len(part) * part.codec.images_per_item)]
        self._places = single * (-(-replay.fill // len(single)) if single else 1)
        self.targets = [self._parts[p].key[1] for p, _ in self._places]
        self.tasks = [self._parts[p].key[0] for p, _ in self._places]

    def __len__(self) -> int:
        """Return the number of images, repeated ones too."""
        return len(self._places)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        """Return (image, label)."""
        p, i = self._places[index]
        part = self._parts[p]
        item, within = divmod(i, part.codec.images_per_item)
        x = self._preprocess(part.images_of(item)[within : within + 1])
        if self._augment.groups:
            # A worker's copy begins where its parent was; the seed from its loader separates its passes.
            self._looks += 1
            worker = get_worker_info()
            rng = dd.generator("replay", self._seed, 0 if worker is None else worker.seed, self._looks)
            x = self._augment.per_image(1, rng)(x)
        label: Any = self.targets[index] if self._rows is None else self._rows[p][i]
        return x[0], torch.tensor(label) if self._schema.tensors and self._rows is None else label


def as_avalanche(items: Items, schema: Schema) -> AvalancheDataset[Any]:
    """Return items as a data set that mixes with those of the stream."""
    if not schema.tasks:
        return as_classification_dataset(items)
    attributes = [DataAttribute(items.targets, "targets"), TaskLabels(items.tasks)]
    return TaskAwareSupervisedClassificationDataset([items], data_attributes=attributes)


@final
@dataclass(frozen=True)
class Streaming:
    """Times of distillation in a stream of small pieces, with or without known boundaries.

    Attributes:
        every: Number of pieces after which the waiting images are distilled. Where the stream marks the start of a new
            experience, those of the one before are distilled first.
        room: Number of real images that may wait; of more, a random choice stays, each as likely as the others.
    """

    _: KW_ONLY
    every: PositiveInt = 20
    room: PositiveInt = 1000

    def __post_init__(self) -> None:
        check_numbers(self)


@final
class Queue:
    """Reservoir of at most `room` of the images that came since it was emptied; `seed` is the root of the choice."""

    def __init__(self, room: int, seed: int) -> None:
        self._room, self._seed = room, seed
        self._came = self._emptied = self.pieces = 0
        self._waiting: Arrivals | None = None

    def __len__(self) -> int:
        """Return the number of images that wait."""
        return 0 if self._waiting is None else len(self._waiting.keys)

    def add(self, piece: Arrivals) -> None:
        """Add a piece of the stream."""
        self.pieces += 1
        old, before = self._waiting, len(self)
        images = piece.images if old is None else torch.cat([old.images, piece.images])
        keys = piece.keys if old is None else old.keys + piece.keys
        places = list(range(before))
        for i in range(before, len(keys)):
            self._came += 1
            if len(places) < self._room:
                places.append(i)
                continue
            rng = dd.generator("queue", self._seed, self._emptied, self._came)
            at = int(torch.randint(self._came, (), generator=rng))
            if at < self._room:
                places[at] = i
        self._waiting = Arrivals(images[places].clone(), tuple(keys[i] for i in places))

    def empty(self) -> Arrivals | None:
        """Return the images that waited, and forget them; None without any."""
        waiting, self._waiting = self._waiting, None
        self._came = self.pieces = 0
        self._emptied += 1
        return waiting

    def to_state(self) -> dict[str, Any]:
        """Return tensors and plain values."""
        waiting = None if self._waiting is None else tuple(self._waiting)
        return {"came": self._came, "emptied": self._emptied, "pieces": self.pieces, "waiting": waiting}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take the state that `to_state` gave; more images than there is room for are refused."""
        self._came, self._emptied, self.pieces = state["came"], state["emptied"], state["pieces"]
        waiting = state["waiting"]
        self._waiting = None if waiting is None else Arrivals(*waiting)
        require(len(self) <= self._room, "room", f"hold the {len(self)} images that wait", self._room)
