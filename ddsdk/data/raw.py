"""Unchecked images, class ids and class names, which readers return to `load`."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ddsdk.data.pictures import Pictures, decode_all
from ddsdk.foundation import generator


@dataclass(frozen=True)
class Raw:
    """One split of a data set, whose content is not yet checked.

    Attributes:
        images: Images (N, C, H, W), uint8 or float, or N pictures that are decoded on access.
        labels: Integer class ids, (N,) int64.
        class_names: Names of the K classes; None if the source has class ids only.
    """

    images: Tensor | Pictures
    labels: Tensor
    class_names: tuple[str, ...] | None = None

    def decoded(self, *, skip_unreadable: bool = False) -> tuple[Tensor, Tensor]:
        """Return images (N, C, H, W) and labels (N,); True as `skip_unreadable` leaves unreadable pictures out."""
        if isinstance(self.images, Tensor):
            return self.images, self.labels
        images, kept = decode_all(self.images, skip_unreadable=skip_unreadable)
        return images, self.labels[kept]

    def select(self, index: Tensor) -> Raw:
        """Return the items at positions `index`, (M,) int64."""
        images = self.images.select(index.tolist()) if isinstance(self.images, Pictures) else self.images[index]
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
