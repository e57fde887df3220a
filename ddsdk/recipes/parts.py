"""Parts that recipes take at will: pixels with hard labels, SGD on what is stored, the augmentation of a data set."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

import ddsdk as dd

if TYPE_CHECKING:
    import torch

__all__ = ["augmentation_for", "pixel_set", "sgd_on_images"]

# A mirrored 3 is no 3, and a mirrored 2 looks like a 5.
_UNFLIPPED = {"digits", "kmnist", "mnist", "svhn", "usps"}


def augmentation_for(real: dd.RealData, given: str | None) -> str:
    """Return `given`, or the published operations for `real` if it is None: all six, without flip for characters.

    Args:
        real: Its name decides: digits, KMNIST, MNIST, SVHN and USPS are characters.
        given: DSA operations joined by "_"; empty for none.
    """
    if given is not None:
        return given
    name = real.name.lower().replace("-", "").replace("_", "")
    kept = [op for op in dd.DSA_STRATEGY.split("_") if op != "flip" or name not in _UNFLIPPED]
    return "_".join(kept)


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
