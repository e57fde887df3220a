"""Real images that are distilled at once: those of one task, with the remembered ones of their classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

import ddsdk as dd
from ddsdk.artefact import Tiles, to_bytes
from ddsdk.foundation import derive
from ddsdk.synthetic import MultiFormation, Pixels, hard_labels
from ddsdk_integrations.continual.memory import Key, Part
from ddsdk_integrations.continual.stream import Arrivals


@final
@dataclass(frozen=True, eq=False)
class Moment:
    """Images of the classes of one task.

    Attributes:
        images: Images, (N, C, H, W) uint8.
        labels: Positions in `keys`, (N,) int64.
        keys: Keys of the images, sorted.
    """

    images: Tensor
    labels: Tensor
    keys: tuple[Key, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        c, h, w = self.images.shape[1:]
        return c, h, w

    def with_old(self, parts: Sequence[Part]) -> Moment:
        """Return the moment with the remembered images of its classes among the new ones.

        They are repeated, so that each remembered part weighs as much as the new images.
        """
        images, labels = [self.images], [self.labels]
        for c, key in enumerate(self.keys):
            for part in (part for part in parts if part.key == key):
                seen = to_bytes(part.images())
                came = int((self.labels == c).sum())
                again = max(1, round(came / len(seen)))
                images += [seen] * again
                labels.append(torch.full((len(seen) * again,), c))
        return Moment(torch.cat(images), torch.cat(labels), self.keys)

    def real(
        self, preprocess: dd.Preprocess, past: Mapping[Key, Tensor], rng: torch.Generator, **facts: bool
    ) -> dd.RealData:
        """Return the images as real data with the facts of the stream, and remembered uint8 images as further classes.

        A recipe needs two classes: one that comes alone while nothing is remembered has noise beside it.
        """
        names = [str(label) for _, label in self.keys]
        images, labels = [self.images], [self.labels]
        for (_, label), seen in past.items():
            # As many as a batch would draw: a class of a few images is drawn whole each time anyway.
            again = seen.repeat(-(-len(self.images) // len(seen)), 1, 1, 1)[: len(self.images)]
            images.append(again)
            labels.append(torch.full((len(again),), len(names)))
            names.append(str(label))
        if len(names) == 1:
            noise = torch.randint(0, 256, self.images.shape, generator=derive(rng, "noise"), dtype=torch.uint8)
            images.append(noise)
            labels.append(torch.ones(len(noise), dtype=torch.int64))
            names.append("noise")
        pixels, of = torch.cat(images), torch.cat(labels)
        return dd.RealData(pixels, of, class_names=names, preprocess=preprocess, name="stream", **facts)

    def past(self, parts: Sequence[Part]) -> dict[Key, Tensor]:
        """Return the remembered images of the task's other classes, uint8, by key."""
        others = [part for part in parts if part.key[0] == self.keys[0][0] and part.key not in self.keys]
        return {
            key: torch.cat([to_bytes(part.images()) for part in others if part.key == key])
            for key in dict.fromkeys(part.key for part in others)
        }


def moments(came: Arrivals) -> list[Moment]:
    """Return a moment for each task of the new images."""
    found = []
    for task in sorted({task for task, _ in came.keys}):
        keys = tuple(sorted({key for key in came.keys if key[0] == task}))
        place = {key: c for c, key in enumerate(keys)}
        index = torch.tensor([i for i, key in enumerate(came.keys) if key[0] == task])
        labels = torch.tensor([place[came.keys[i]] for i in index.tolist()])
        found.append(Moment(came.images[index], labels, keys))
    return found


def remembered(keys: Sequence[Key], parts: Sequence[Part]) -> dict[int, Part]:
    """Return the part of each key that has one alone, by the place of the key."""
    mine = {c: [part for part in parts if part.key == key] for c, key in enumerate(keys)}
    return {c: found[0] for c, found in mine.items() if len(found) == 1}


def start_of(parts: Mapping[int, Part], preprocess: dd.Preprocess, num_classes: int) -> dd.SyntheticSet | None:
    """Return the warm start of a run from parts by the places of their classes, in the value space; None for none."""
    if not parts:
        return None
    factors = {part.codec.factor if isinstance(part.codec, Tiles) else 1 for part in parts.values()}
    tiled = len(factors) == 1 and factors != {1}
    # Canvases go on as canvases: shrinking their enlarged tiles again would blur them.
    items = [part.packed["canvases"].float() / 255 if tiled else part.images() for part in parts.values()]
    classes = torch.cat([torch.full((len(one),), c) for c, one in zip(parts, items, strict=True)])
    values = preprocess(torch.cat(items))
    stored = MultiFormation(values, factors.pop()) if tiled else Pixels(values)
    return dd.SyntheticSet(stored, hard_labels(classes, num_classes), classes, num_classes)
