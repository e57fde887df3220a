"""Replay memory of packed synthetic images with their labels, under a budget in bytes."""

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
"""Task label and class id: the same class id in two tasks denotes two different classes."""


def sample_bytes(shape: tuple[int, int, int]) -> int:
    """Return the storage of one real image with its class id: one byte per channel and pixel, plus `LABEL_BYTES`.

    Examples:
        >>> from ddsdk_integrations.continual import sample_bytes
        >>> sample_bytes((1, 28, 28))
        786
    """
    return math.prod(shape) + LABEL_BYTES


@final
@dataclass(frozen=True, eq=False, kw_only=True)
class MemoryPart:
    """Stored images of one class from one distillation.

    An item is one row of the packed tensors; a codec of tiles or components decodes an item to several images.

    Attributes:
        key: Task label and class id of the images.
        visit: Number of the distillation that produced the part, from 1.
        codec: Codec of the images.
        packed: Packed tensors, with one row for each item.
        shape: Shape of an image, (C, H, W).
        soft: Soft labels of the M items over `classes`, (M, K) float16; None for the hard label of the key.
        classes: Class ids of the K columns of `soft`; empty for hard labels.
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
        """Storage of images and labels in bytes."""
        labels = LABEL_BYTES * len(self) if self.soft is None else self.soft.nbytes + LABEL_BYTES
        return sum(tensor.nbytes for tensor in self.packed.values()) + labels

    def take(self, index: Tensor) -> MemoryPart:
        """Return a copy of the items at `index`, (M',) int64."""
        packed = self.codec.at(self.packed, index)
        return replace(self, packed=packed, soft=None if self.soft is None else self.soft[index].clone())

    def images(self) -> Tensor:
        """Return the decoded images, (N, C, H, W) float32 in the unit range, in the order of the items."""
        return self.codec.unpack(self.packed)

    def images_of(self, item: int) -> Tensor:
        """Return the decoded images of one item, (n, C, H, W) float32 in the unit range."""
        return self.codec.unpack(self.codec.at(self.packed, torch.tensor([item])))

    def rows(self, width: int) -> Tensor:
        """Return the label of each decoded image as a row of probabilities, (N, width).

        The class ids must be below `width`; otherwise a ValueError is raised.
        """
        classes = self.classes if self.soft is not None else (self.key[1],)
        require(max(classes) < width, "soft", f"exceed the largest class id, {max(classes)}", width)
        if self.soft is None:
            rows = one_hot(torch.full((len(self),), self.key[1]), width).float()
        else:
            rows = torch.zeros(len(self), width)
            rows[:, list(classes)] = self.soft.float()
        return rows.repeat_interleave(self.codec.images_per_item, 0)

    def to_state(self) -> dict[str, Any]:
        """Return the part as a dictionary of tensors and plain values."""
        plain = {field.name: getattr(self, field.name) for field in fields(self)}
        return plain | {"codec": codec_state(self.codec), "packed": dict(self.packed)}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> MemoryPart:
        """Return the part of a dictionary from `to_state`.

        Raises:
            ValueError: If a field is missing or unknown. Fields that contradict each other are refused in the same way.
        """
        try:
            part = cls(**{**state, "codec": codec_from(state["codec"])})
        except (TypeError, KeyError) as error:
            raise ValueError(f"part must have the fields of MemoryPart, got {error}") from None
        images = part.images()
        require(tuple(images.shape[1:]) == part.shape, "shape", "be that of the images", part.shape)
        require(len(images) == len(part) * part.codec.images_per_item, "packed", "have equal rows", len(part))
        return part


def shrunk_part(part: MemoryPart, budget: int) -> MemoryPart:
    """Return the items of a part that fit into `budget` bytes, chosen by herding over pixels.

    Components that the images of a class share cannot be dropped one by one: such a part is repacked as uint8 images
    first. A ValueError is raised if the budget is smaller than one item.
    """
    if part.nbytes <= budget:
        return part
    if part.codec.shares:
        return shrunk_part(replace(part, codec=Uint8(), packed=Uint8().pack(part.images())), budget)
    # `MemoryPart.nbytes` counts one class id per part beside the soft labels.
    fixed = 0 if part.soft is None else LABEL_BYTES
    n = (budget - fixed) * len(part) // (part.nbytes - fixed)
    require(n > 0, "budget", f"hold an item of {(part.nbytes - fixed) // len(part)} bytes", budget)
    return part.take(herding(part.images().reshape(len(part), -1), n))


@final
class Memory:
    """Memory parts of all classes under one budget in bytes.

    Each class gets an equal share of the budget, and within a class each visit gets an equal share. A change that
    leaves a share smaller than one item raises a ValueError and has no effect.

    Args:
        budget: Budget of all parts together in bytes.
        keys: Final number of classes over all tasks; None divides by the number of classes so far, so that shares
            shrink as classes arrive.
        visits: Final number of visits of each class; None divides by the number of visits so far.

    Examples:
        >>> import torch
        >>> from ddsdk_integrations.continual import Memory, MemoryPart, Uint8
        >>> packed = Uint8().pack(torch.rand(5, 1, 8, 8))
        >>> memory = Memory(budget=198)  # three images of 64 bytes with their class ids
        >>> memory.put([MemoryPart(key=(0, 3), visit=1, codec=Uint8(), packed=packed, shape=(1, 8, 8))])
        >>> len(memory.parts[0]), memory.nbytes
        (3, 198)
    """

    def __init__(self, budget: int, keys: int | None = None, visits: int | None = None) -> None:
        for name, value in (("budget", budget), ("keys", keys), ("visits", visits)):
            if value is not None:
                require_count(name, value)
        self.budget, self._final_keys, self._final_visits = budget, keys, visits
        self.parts: list[MemoryPart] = []

    @property
    def nbytes(self) -> int:
        """Storage of all parts in bytes."""
        return sum(part.nbytes for part in self.parts)

    @property
    def keys(self) -> list[Key]:
        """Keys of the parts, in the order of their first arrival."""
        return list(dict.fromkeys(part.key for part in self.parts))

    def of(self, key: Key) -> list[MemoryPart]:
        """Return the parts of a key."""
        return [part for part in self.parts if part.key == key]

    def share(self, coming: Iterable[Key] = (), visits: int = 1) -> int:
        """Return the budget in bytes of one visit of a key with `visits` visits, once the keys `coming` are added."""
        keys = len({*self.keys, *coming})
        for name, final_number, number in (("classes", self._final_keys, keys), ("visits", self._final_visits, visits)):
            if final_number is not None:
                require(number <= final_number, name, f"be at least {number}, the number so far", final_number)
        return self.budget // (self._final_keys or max(1, keys)) // (self._final_visits or visits)

    def put(self, parts: Iterable[MemoryPart], *, replace: bool = False) -> None:
        """Add parts and shrink all parts to their shares; with `replace`, drop the earlier parts of the same keys."""
        new = list(parts)
        replaced = {part.key for part in new} if replace else set()
        self.parts = self._fitted([part for part in self.parts if part.key not in replaced] + new)

    def fit(self, budget: int) -> None:
        """Set the budget in bytes and shrink all parts to their new shares.

        Raises:
            ValueError: If a share becomes smaller than one item; the memory stays as it was.
        """
        old, self.budget = self.budget, budget
        try:
            self.parts = self._fitted(self.parts)
        except ValueError:
            self.budget = old
            raise

    def _fitted(self, parts: list[MemoryPart]) -> list[MemoryPart]:
        visits = Counter(part.key for part in parts)
        return [shrunk_part(part, self.share(visits, visits[part.key])) for part in parts]

    def to_state(self) -> list[dict[str, Any]]:
        """Return the parts as dictionaries of tensors and plain values."""
        return [part.to_state() for part in self.parts]

    def load(self, state: Iterable[Mapping[str, Any]]) -> None:
        """Replace all parts by those of a list from `to_state`."""
        self.parts = [MemoryPart.from_state(part_state) for part_state in state]
