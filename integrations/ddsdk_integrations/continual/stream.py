"""What comes in and what goes out: Avalanche's items as uint8 images, and a memory as one of its data sets."""

from __future__ import annotations

from collections.abc import Sequence
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
from ddsdk.foundation import require, require_count
from ddsdk_integrations.continual.memory import Key, Part

_SLACK = 0.02


@final
@dataclass(frozen=True)
class Replay:
    """How a memory is given to whoever trains on it.

    Attributes:
        fill: Items that the data set has at least, by repeating them all: Avalanche takes at most as many memory items
            into a batch as there are, so a memory smaller than its batch has a small share of the loss.
        augmentation: DSA operations joined by "_" on each replayed image, apart from those of the stream; empty for
            none.
        soft: Classes of a soft label. Items then have rows of probabilities for labels, which the plugin
            `SoftLabels` brings into one batch with the stream's; None for class ids.

    Raises:
        ValueError: If a number is below 1 or an operation unknown.
    """

    _: KW_ONLY
    fill: int = 1
    augmentation: str = ""
    soft: int | None = None

    def __post_init__(self) -> None:
        require_count("fill", self.fill)
        dd.Augmentation(self.augmentation)
        if self.soft is not None:
            require_count("soft", self.soft, 2)


@final
@dataclass(frozen=True)
class Schema:
    """What an item of the stream looks like, which those of the memory must look like too.

    Attributes:
        tensors: Whether labels are tensors and no plain integers.
        tasks: Whether items end with a task label.
    """

    tensors: bool
    tasks: bool

    @classmethod
    def of(cls, dataset: AvalancheDataset[Any]) -> Schema:
        """Return the schema of a data set with at least one item.

        Raises:
            ValueError: If its items are not (x, y) or (x, y, task).
        """
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
    """Read a data set of the stream with the transformations of its evaluation, so without augmentation.

    Args:
        dataset: Of (x, y) or (x, y, task).
        preprocess: From the unit range to its values.

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
    """The images of some parts, unpacked anew at each look.

    Args:
        parts: What is remembered.
        preprocess: From the unit range to the values of the stream.
        schema: Of the stream.
        replay: How images and labels are given.
        seed: Of the augmentation.
    """

    def __init__(
        self, parts: Sequence[Part], preprocess: dd.Preprocess, schema: Schema, replay: Replay, seed: int
    ) -> None:
        self._parts = list(parts)
        self._preprocess = preprocess
        self._schema = schema
        self._rows = None if replay.soft is None else [part.rows(replay.soft) for part in parts]
        self._augment = dd.Augmentation(replay.augmentation)
        self._seed = seed
        self._looks = 0
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
            x = self._augment.per_image(1, self._key())(x)
        label: Any = self.targets[index] if self._rows is None else self._rows[p][i]
        return x[0], torch.tensor(label) if self._schema.tensors and self._rows is None else label

    def _key(self) -> torch.Generator:
        # A worker's copy begins where its parent was: what tells its passes apart is the seed that its loader gave it.
        self._looks += 1
        worker = get_worker_info()
        return dd.generator("replay", self._seed, 0 if worker is None else worker.seed, self._looks)


def as_avalanche(items: Items, schema: Schema) -> AvalancheDataset[Any]:
    """Return items as a data set that mixes with those of the stream."""
    if not schema.tasks:
        return as_classification_dataset(items)
    attributes = [DataAttribute(items.targets, "targets"), TaskLabels(items.tasks)]
    return TaskAwareSupervisedClassificationDataset([items], data_attributes=attributes)
