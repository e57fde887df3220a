"""Real images of one task that are distilled together, optionally with the remembered images of the same task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

import ddsdk as dd
from ddsdk.artefact import Tiles, to_bytes
from ddsdk.foundation import derive
from ddsdk.synthetic import MultiFormation, Pixels, hard_labels
from ddsdk_integrations.continual.memory import Key, MemoryPart
from ddsdk_integrations.continual.stream import NewSamples


@final
@dataclass(frozen=True, eq=False)
class TaskBatch:
    """Images of the classes of one task.

    Attributes:
        images: Images, (N, C, H, W) uint8.
        labels: Index in `keys` of each image, (N,) int64.
        keys: Sorted keys of the images, (task label, class id) each.
    """

    images: Tensor
    labels: Tensor
    keys: tuple[Key, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of an image, (C, H, W)."""
        c, h, w = self.images.shape[1:]
        return c, h, w

    def with_old(self, parts: Sequence[MemoryPart]) -> TaskBatch:
        """Return the batch with the remembered images of its classes added.

        The images of each part are repeated to about the number of new images of the class, so that every visit has
        the same weight in the distillation.
        """
        images, labels = [self.images], [self.labels]
        for c, key in enumerate(self.keys):
            for part in (part for part in parts if part.key == key):
                old_images = to_bytes(part.images())
                new_images = int((self.labels == c).sum())
                repeats = max(1, round(new_images / len(old_images)))
                images += [old_images] * repeats
                labels.append(torch.full((len(old_images) * repeats,), c))
        return TaskBatch(torch.cat(images), torch.cat(labels), self.keys)

    def real(
        self, preprocess: dd.Preprocess, past: Mapping[Key, Tensor], rng: torch.Generator, **facts: bool
    ) -> dd.RealData:
        """Return the images as real data whose first classes are `keys` and whose further classes are `past`.

        A recipe needs two classes: a single class without remembered ones gets a second class of uniform noise.

        Args:
            preprocess: Map from the unit range to the value space.
            past: Remembered images of further classes, (M, C, H, W) uint8 each.
            rng: Generator of the noise class.
            **facts: Facts about the images for `ddsdk.RealData`, such as `mirror_safe`.

        Returns:
            The real data, with the class ids as class names.
        """
        names = [str(label) for _, label in self.keys]
        images, labels = [self.images], [self.labels]
        for (_, label), past_images in past.items():
            # Repeated to the size of the batch, so that a past class fills the real batches of a recipe as well.
            repeats = -(-len(self.images) // len(past_images))
            repeated = past_images.repeat(repeats, 1, 1, 1)[: len(self.images)]
            images.append(repeated)
            labels.append(torch.full((len(repeated),), len(names)))
            names.append(str(label))
        if len(names) == 1:
            noise = torch.randint(0, 256, self.images.shape, generator=derive(rng, "noise"), dtype=torch.uint8)
            images.append(noise)
            labels.append(torch.ones(len(noise), dtype=torch.int64))
            names.append("noise")
        pixels, targets = torch.cat(images), torch.cat(labels)
        options: dict[str, Any] = {"class_names": names, "preprocess": preprocess, "name": "stream", **facts}
        return dd.RealData(pixels, targets, **options)

    def past(self, parts: Sequence[MemoryPart]) -> dict[Key, Tensor]:
        """Return the remembered images, (M, C, H, W) uint8, of each class of the task that the batch does not have."""
        task, _ = self.keys[0]
        past_parts = [part for part in parts if part.key[0] == task and part.key not in self.keys]
        return {
            key: torch.cat([to_bytes(part.images()) for part in past_parts if part.key == key])
            for key in dict.fromkeys(part.key for part in past_parts)
        }


def split_by_task(samples: NewSamples) -> list[TaskBatch]:
    """Return one batch for each task of the new images, in the order of the task labels."""
    batches = []
    for task in sorted({task for task, _ in samples.keys}):
        keys = tuple(sorted({key for key in samples.keys if key[0] == task}))
        place = {key: c for c, key in enumerate(keys)}
        index = torch.tensor([i for i, key in enumerate(samples.keys) if key[0] == task])
        labels = torch.tensor([place[samples.keys[i]] for i in index.tolist()])
        batches.append(TaskBatch(samples.images[index], labels, keys))
    return batches


def remembered(keys: Sequence[Key], parts: Sequence[MemoryPart]) -> dict[int, MemoryPart]:
    """Return the part of each key that has exactly one, by the index of the key in `keys`."""
    parts_of_key = {c: [part for part in parts if part.key == key] for c, key in enumerate(keys)}
    return {c: key_parts[0] for c, key_parts in parts_of_key.items() if len(key_parts) == 1}


def warm_start_of(
    parts: Mapping[int, MemoryPart], preprocess: dd.Preprocess, num_classes: int
) -> dd.SyntheticSet | None:
    """Return the warm start of a run from earlier images; None without parts.

    Args:
        parts: Part of each class that has earlier images, by class index.
        preprocess: Map from the unit range to the value space.
        num_classes: Number of classes of the run.

    Returns:
        The earlier images as a synthetic set in the value space.
    """
    if not parts:
        return None
    factors = {part.codec.factor if isinstance(part.codec, Tiles) else 1 for part in parts.values()}
    tiled = len(factors) == 1 and factors != {1}
    # Tiled canvases restart as canvases: to decode their tiles to images and to shrink these again would blur them.
    items = [part.packed["canvases"].float() / 255 if tiled else part.images() for part in parts.values()]
    classes = torch.cat([torch.full((len(images),), c) for c, images in zip(parts, items, strict=True)])
    values = preprocess(torch.cat(items))
    stored = MultiFormation(values, factors.pop()) if tiled else Pixels(values)
    return dd.SyntheticSet(stored, hard_labels(classes, num_classes), classes, num_classes)
