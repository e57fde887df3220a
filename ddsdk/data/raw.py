"""Unchecked images or texts, class ids and class names, which readers return to `load`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ddsdk.data.on_disk import DiskImages
from ddsdk.data.pictures import Pictures
from ddsdk.foundation import generator


@dataclass(frozen=True)
class Texts:
    """Texts that are converted to matrices of word vectors later, with the vocabulary of the train texts.

    Attributes:
        values: Texts in the order of the items.
    """

    values: tuple[str, ...]

    def __len__(self) -> int:
        """Return the number of texts."""
        return len(self.values)

    def select(self, index: Sequence[int]) -> Texts:
        """Return the texts at positions `index`."""
        return Texts(tuple(self.values[i] for i in index))


@dataclass(frozen=True)
class Raw:
    """One split of a data set, whose content is not yet checked.

    Attributes:
        images: Images (N, C, H, W), uint8 or float, in memory or on disk; N pictures that are decoded on access; or N
            texts.
        labels: Integer class ids, (N,) int64.
        class_names: Names of the K classes; None if the source has class ids only.
    """

    images: Tensor | DiskImages | Pictures | Texts
    labels: Tensor
    class_names: tuple[str, ...] | None = None

    def select(self, index: Tensor) -> Raw:
        """Return the items at positions `index`, (M,) int64."""
        images = self.images
        images = images[index] if isinstance(images, Tensor | DiskImages) else images.select(index.tolist())
        return replace(self, images=images, labels=self.labels[index])


def fixed_part(n: int, split: str, *key: int | str) -> Tensor:
    """Return the sorted positions of the items of a split; a random quarter, drawn from the key, is "test".

    Args:
        n: Number of items of both splits together.
        split: Split to return, "train" or "test".
        key: Integers and strings that seed the random choice.
    """
    order, cut = torch.randperm(n, generator=generator(*key)), round(0.25 * n)
    return (order[:cut] if split == "test" else order[cut:]).sort().values
