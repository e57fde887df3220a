"""Reader of tensors and numpy arrays: the axes are identified by their sizes, and values are brought to one range."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddsdk.data.labels import class_labels, require_dense
from ddsdk.data.raw import Raw
from ddsdk.foundation import note, require

Array: TypeAlias = Tensor | NDArray[Any]
Channels: TypeAlias = Literal["first", "last"]
_FEW = 4
"""Largest number of channels of a usual picture."""
_LEAST_OF_255 = 64.0
"""Least maximum of float images that are certainly in 0..255 and not in a smaller range."""


def read_arrays(images: object, labels: object, channels: Channels | None = None, name: str = "images") -> Raw:
    """Return images and labels that are given as tensors or arrays, with channels first.

    Args:
        images: Images (N, H, W), (N, C, H, W) or (N, H, W, C), see `channels_first` and `unit_or_bytes`.
        labels: Labels of any form that `class_labels` reads.
        channels: Position of the channel axis, "first" or "last"; None finds it by the sizes of the axes.
        name: Name of the images in messages.
    """
    ids, class_names = class_labels(labels)
    return Raw(unit_or_bytes(channels_first(images, channels, name), name), ids, class_names)


def channels_first(images: object, channels: Channels | None = None, name: str = "images") -> Tensor:
    """Return images as a tensor (N, C, H, W), which is a copy if `images` is an array.

    A tensor without `channels` has the channels first, unless its sizes look like channels last; that is refused. An
    array without `channels` has 1 or 3 entries on exactly one of the second and the last axis.

    Args:
        images: Tensor or numpy array (N, H, W), (N, C, H, W) or (N, H, W, C).
        channels: Position of the channel axis, "first" or "last"; None finds it by the sizes of the axes.
        name: Name of the images in messages.

    Raises:
        TypeError: If `images` is neither a tensor nor an array of numbers.
    """
    require(channels in (None, "first", "last"), "channels", "be 'first' or 'last'", channels)
    if not isinstance(images, Tensor | np.ndarray):
        raise TypeError(f"{name} must be a tensor or a numpy array, got {type(images).__name__}")
    require_dense(images, name)
    # A copy of an array, because the caller may change it later.
    tensor = images.detach() if isinstance(images, Tensor) else _copied(images, name)
    shape = tuple(tensor.shape)
    rule = "have shape (N, H, W), (N, C, H, W), or (N, H, W, C) with channels='last'"
    require(tensor.ndim in (3, 4), name, rule, shape)
    if tensor.ndim == 3:
        return tensor[:, None]
    if channels is None and isinstance(images, Tensor):
        few_last = shape[3] < shape[1] and (shape[3] <= _FEW < shape[1] or shape[1] == shape[2])
        rule = "have shape (N, C, H, W); pass channels='last' or permute(0, 3, 1, 2), or channels='first' if it has"
        require(not few_last, name, rule, shape)
    elif channels is None:
        rule = "have 1 or 3 channels on exactly one of the second and the last axis, or come with channels='first' or"
        first, last = shape[1] in (1, 3), shape[3] in (1, 3)
        require(first != last, name, f"{rule} channels='last' (--channels)", shape)
        channels = "first" if first else "last"
    return tensor.permute(0, 3, 1, 2).contiguous() if channels == "last" else tensor


def _copied(images: NDArray[Any], name: str) -> Tensor:
    if images.dtype.kind not in "uif":
        raise TypeError(f"{name} must be uint8, uint16 or floating point, got {images.dtype}")
    kind, size = images.dtype.kind, images.dtype.itemsize
    target: Any = images.dtype.newbyteorder("=")
    # torch has few operations for unsigned integers of 32 and 64 bits, and no floats of more than 64 bits.
    if kind == "u" and size > 2:
        target = np.int64
    elif kind == "f" and size > 8:
        target = np.float64
    native = np.asarray(images).astype(target, copy=False)
    return torch.tensor(np.ascontiguousarray(native))


def unit_or_bytes(images: Tensor, name: str = "images") -> Tensor:
    """Return images as uint8 in 0..255, or as floats in the unit range, with a note for each conversion.

    uint16 is divided by 65535. Other integers are read as uint8 if they lie in 0..255. Floats with a maximum from 64 to
    255 are divided by 255. Floats outside of the unit range are refused otherwise, because their range is not known.

    Args:
        images: Images of any shape with the item as the first axis.
        name: Name of the images in messages.

    Raises:
        TypeError: If the images are boolean or complex.
    """
    if images.dtype == torch.uint8 or images.numel() == 0:
        return images
    if images.dtype == torch.bool or images.is_complex():
        raise TypeError(f"{name} must be uint8, uint16 or floating point, got {images.dtype}")
    if images.dtype == torch.uint16:
        note(f"{name} of type uint16 are divided by 65535")
        return images.to(torch.int32).float().div_(65535)
    low, high = float(images.amin()), float(images.amax())
    if not images.is_floating_point():
        rule = "be uint8, or integers in 0..255 with a maximum above 1, or floats in the unit range [0, 1]"
        require(low >= 0 and 1 < high <= 255, name, rule, (low, high))
        note(f"{name} of type {str(images.dtype).removeprefix('torch.')} lie in 0..255, and are read as uint8")
        return images.to(torch.uint8)
    if images.dtype in (torch.float16, torch.bfloat16):
        images = images.float()
    if low < 0:
        rule = "lie in the unit range [0, 1] or in 0..255; leave out Normalize, because ddsdk normalises itself"
        require(False, name, rule, (low, high))
    if high > 1:
        rule = "lie in the unit range [0, 1] or in 0..255; divide them by their largest possible value"
        require(_LEAST_OF_255 <= high <= 255, name, rule, (low, high))
        note(f"{name} are floats in 0..255 (maximum {high:g}), and are divided by 255")
        return images.float() / 255
    # NaN compares as False everywhere; `RealData` names the image.
    return images
