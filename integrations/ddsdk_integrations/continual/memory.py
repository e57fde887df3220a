"""Packed images with their labels, and the bytes that they take."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, final

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from ddsdk.artefact import LABEL_BYTES, Codec, Packed, Uint8, codec_from, codec_state
from ddsdk.data import herding
from ddsdk.foundation import require, require_count

Key = tuple[int, int]
"""A task label and a class: images of the same class number in two tasks are different things."""


def sample_bytes(shape: tuple[int, int, int]) -> int:
    """Return the bytes of one real image with its class: a byte for each channel of a pixel, and `LABEL_BYTES`."""
    return math.prod(shape) + LABEL_BYTES


@final
@dataclass(frozen=True, eq=False, kw_only=True)
class Part:
    """The images of one class that one distillation left.

    Attributes:
        key: Task and class.
        visit: Number of the update that made the part, from 1.
        codec: Codec of the images.
        packed: Tensors whose rows are items.
        shape: Shape of an image, (C, H, W).
        soft: Label of each item over `classes`, (M, K) half floats; None where all have the class of the key.
        classes: Classes of the K columns of `soft`.
    """

    key: Key
    visit: int
    codec: Codec
    packed: Packed
    shape: tuple[int, int, int]
    soft: Tensor | None = None
    classes: tuple[int, ...] = ()

    def __len__(self) -> int:
        """Return the number of stored items."""
        return self.codec.count(self.packed)

    @property
    def nbytes(self) -> int:
        """Bytes of images and labels."""
        labels = LABEL_BYTES * len(self) if self.soft is None else self.soft.nbytes + LABEL_BYTES
        return sum(tensor.nbytes for tensor in self.packed.values()) + labels

    def take(self, index: Tensor) -> Part:
        """Return the items at `index`, (M',) int64, in memory of their own."""
        packed = self.codec.at(self.packed, index)
        return replace(self, packed=packed, soft=None if self.soft is None else self.soft[index].clone())

    def images(self) -> Tensor:
        """Return the images, float32 in the unit range, item by item."""
        return self.codec.unpack(self.packed)

    def images_of(self, item: int) -> Tensor:
        """Return the images of one item."""
        return self.codec.unpack(self.codec.at(self.packed, torch.tensor([item])))

    def rows(self, width: int) -> Tensor:
        """Return a label row over `width` classes for each image; a class that is not below `width` is refused."""
        classes = self.classes if self.soft is not None else (self.key[1],)
        require(max(classes) < width, "soft", f"be more than the class {max(classes)}", width)
        if self.soft is None:
            rows = one_hot(torch.full((len(self),), self.key[1]), width).float()
        else:
            rows = torch.zeros(len(self), width)
            rows[:, list(classes)] = self.soft.float()
        return rows.repeat_interleave(self.codec.images_per_item, 0)

    def to_state(self) -> dict[str, Any]:
        """Return tensors and plain values."""
        plain = {field.name: getattr(self, field.name) for field in fields(self)}
        return plain | {"codec": codec_state(self.codec), "packed": dict(self.packed)}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Part:
        """Return the part that `to_state` described; ValueError if something of it is missing or wrong."""
        try:
            part = cls(**{**state, "codec": codec_from(state["codec"])})
        except (TypeError, KeyError) as error:
            raise ValueError(f"part must have the fields of a part, got {error}") from None
        images = part.images()
        require(tuple(images.shape[1:]) == part.shape, "shape", "be that of the images", part.shape)
        require(len(images) == len(part) * part.codec.images_per_item, "packed", "have equal rows", len(part))
        return part


def shrunk(part: Part, budget: int) -> Part:
    """Return as many items of a part as fit into so many bytes, chosen by herding over pixels; ValueError if none fits.

    Images that share something are packed as bytes first.
    """
    if part.nbytes <= budget:
        return part
    if part.codec.shares:
        return shrunk(replace(part, codec=Uint8(), packed=Uint8().pack(part.images())), budget)
    fixed = 0 if part.soft is None else LABEL_BYTES
    n = (budget - fixed) * len(part) // (part.nbytes - fixed)
    require(n > 0, "budget", f"hold an item of {(part.nbytes - fixed) // len(part)} bytes", budget)
    return part.take(herding(part.images().reshape(len(part), -1), n))


@final
class Memory:
    """Parts, and the bytes that they may take together.

    Each key gets an equal share, and within it each visit. Changes that leave a share without any item are refused.

    Args:
        budget: Number of bytes.
        keys: Final number of keys; None divides by those that there are, so shares shrink as keys come.
        visits: Final number of visits of each key; None divides by those that there are.
    """

    def __init__(self, budget: int, keys: int | None = None, visits: int | None = None) -> None:
        for name, value in (("budget", budget), ("keys", keys), ("visits", visits)):
            if value is not None:
                require_count(name, value)
        self.budget, self._fixed, self._visits = budget, keys, visits
        self.parts: list[Part] = []

    @property
    def nbytes(self) -> int:
        """Bytes that are kept."""
        return sum(part.nbytes for part in self.parts)

    @property
    def keys(self) -> list[Key]:
        """Keys, in the order in which they first came."""
        return list(dict.fromkeys(part.key for part in self.parts))

    def of(self, key: Key) -> list[Part]:
        """Return the parts of a key."""
        return [part for part in self.parts if part.key == key]

    def share(self, coming: Iterable[Key] = (), visits: int = 1) -> int:
        """Return the bytes of one visit of a key that has so many, beside the keys that are coming."""
        keys = len({*self.keys, *coming})
        for name, final_number, there in (("classes", self._fixed, keys), ("visits", self._visits, visits)):
            if final_number is not None:
                require(there <= final_number, name, f"be as many as come, {there} by now", final_number)
        return self.budget // (self._fixed or max(1, keys)) // (self._visits or visits)

    def put(self, parts: Iterable[Part], *, replace: bool = False) -> None:
        """Add parts, in the place of those with their keys if `replace`, and shrink all to their shares."""
        new = list(parts)
        gone = {part.key for part in new} if replace else set()
        self.parts = self._fitted([p for p in self.parts if p.key not in gone] + new)

    def fit(self, budget: int) -> None:
        """Take another budget, and shrink all parts to their shares."""
        old, self.budget = self.budget, budget
        try:
            self.parts = self._fitted(self.parts)
        except ValueError:
            self.budget = old
            raise

    def _fitted(self, parts: list[Part]) -> list[Part]:
        visits = Counter(part.key for part in parts)
        return [shrunk(part, self.share(visits, visits[part.key])) for part in parts]

    def to_state(self) -> list[dict[str, Any]]:
        """Return tensors and plain values."""
        return [part.to_state() for part in self.parts]

    def load(self, state: Iterable[Mapping[str, Any]]) -> None:
        """Take the parts that `to_state` described, in place of those that there are."""
        self.parts = [Part.from_state(one) for one in state]
