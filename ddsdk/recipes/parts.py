"""Two parts that recipes take at will: pixels with hard labels, and SGD on whatever is stored."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

import ddsdk as dd

if TYPE_CHECKING:
    import torch

__all__ = ["pixel_set", "sgd_on_images"]


def pixel_set(real: dd.RealData, ipc: int, start: str, rng: torch.Generator) -> dd.SyntheticSet:
    """Return a set of plain pixels with fixed one-hot labels, `ipc` for each class.

    Args:
        real: Gives classes, image shape and device.
        ipc: Images per class.
        start: A key of `ddsdk.STARTS`.
        rng: For the start.

    Raises:
        ValueError: If `start` is unknown, or a class of `real` has too few images for it.
    """
    if start not in dd.STARTS:
        near = get_close_matches(start, dd.STARTS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"start must be one of {', '.join(dd.STARTS)}, got {start!r}{hint}")
    images = dd.STARTS[start](real, ipc, dd.derive(rng, "start"))
    classes = dd.class_slots(real.num_classes, ipc)
    labels = dd.hard_labels(classes, real.num_classes)
    return dd.SyntheticSet(dd.Pixels(images), labels, classes, real.num_classes).to(real.device)


def sgd_on_images(syn: dd.SyntheticSet, *, lr: float, momentum: float) -> torch.optim.Optimizer:
    """Return SGD over everything that `syn` stores and learns."""
    from torch.optim import SGD

    return SGD(syn.parameters(), lr=lr, momentum=momentum)
