"""Checks of the tensors of a distilled set in memory, which raise `TypeError` and `ValueError`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ddsdk.artefact.faults import edge_fault, label_fault, per_step_fault
from ddsdk.foundation import require


def check_images(images: Tensor, channels: int) -> None:
    """Check that images are finite float32 numbers of shape (M, C, H, W) with the channels of the preprocessing."""
    _check_dtype("images", images, torch.float32)
    shape = tuple(images.shape)
    require(images.ndim == 4 and images.numel() > 0, "images", "have shape (M, C, H, W), not empty", shape)
    require(shape[1] == channels, "images", f"have the {channels} channels of preprocess", shape)
    non_finite = ~torch.isfinite(images).flatten(1).all(1)
    if bool(non_finite.any()):
        _refuse(f"images must be finite, got NaN or infinity in image {int(non_finite.nonzero()[0])}")


def check_labels(labels: Tensor, class_names: Sequence[str], label_space: str, count: int) -> None:
    """Check that labels are `count` rows of their label space, with one column for each class name."""
    _check_dtype("labels", labels, torch.float32)
    shape, expected = tuple(labels.shape), (count, len(class_names))
    require(len(class_names) > 0, "class_names", "hold at least one name", class_names)
    require(shape == expected, "labels", f"have shape {expected}, one column for each class name", shape)
    _refuse(label_fault(labels.cpu().numpy(), label_space))


def check_classes(classes: Tensor, num_classes: int, count: int) -> None:
    """Check that class ids are `count` int64 numbers below the number of classes."""
    _check_dtype("classes", classes, torch.int64)
    require(tuple(classes.shape) == (count,), "classes", f"have shape ({count},)", tuple(classes.shape))
    low, high = int(classes.min()), int(classes.max())
    require(low >= 0 and high < num_classes, "classes", f"lie below {num_classes}", (low, high))


def check_edges(index: Tensor | None, weight: Tensor | None, rows: int) -> None:
    """Check the edges and their weights between the `rows` rows of all images together."""
    for name, tensor, dtype in (("edge_index", index, torch.int64), ("edge_weight", weight, torch.float32)):
        if tensor is not None:
            _check_dtype(name, tensor, dtype)
    arrays = [None if tensor is None else tensor.cpu().numpy() for tensor in (index, weight)]
    _refuse(edge_fault(arrays[0], arrays[1], rows))


def rounded_rates(
    rates: float | Sequence[float] | None, momenta: float | Sequence[float] | None
) -> list[float | tuple[float, ...] | None]:
    """Return learned rates and momenta, each a number or one for each step, rounded to float32 and checked."""
    rounded = []
    for name, learned in (("learned_lr", rates), ("learned_momentum", momenta)):
        # A number that overflows float32 becomes infinite, which the check below refuses.
        with np.errstate(over="ignore"):
            values = None if learned is None else np.asarray(learned, dtype=np.float32)
        if values is not None:
            require(values.ndim < 2 and values.size > 0, name, "be a number or one for each step", learned)
        rounded.append(values)
    _refuse(per_step_fault(*rounded))
    return [None if v is None else tuple(v.tolist()) if v.ndim else float(v) for v in rounded]


def _check_dtype(name: str, tensor: Tensor, dtype: torch.dtype) -> None:
    if tensor.dtype != dtype:
        raise TypeError(f"{name} must be {str(dtype).removeprefix('torch.')}, got {tensor.dtype}")


def _refuse(fault: str | None) -> None:
    if fault:
        raise ValueError(fault)
