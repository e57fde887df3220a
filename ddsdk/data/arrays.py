"""Readers of tensors, numpy arrays and map-style datasets, whose axes are identified by their sizes."""

from __future__ import annotations

import operator
from typing import Any, Protocol, TypeAlias, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ddsdk.data.pictures import decode
from ddsdk.data.raw import Raw
from ddsdk.foundation import require

Array: TypeAlias = Tensor | NDArray[Any]


class LabelledImages(Protocol):
    """Map-style dataset with items (image, class id), such as a dataset of torchvision."""

    def __len__(self) -> int:
        """Return the number of items."""
        ...

    def __getitem__(self, index: int, /) -> Any:  # noqa: ANN401
        """Return an item (image, class id): a PIL image, tensor or array, and an integer."""
        ...


def read_arrays(images: Array, labels: Array) -> Raw:
    """Return images and labels that are given as tensors or arrays, with channels first.

    Args:
        images: Images, uint8, or float in the unit range [0, 1]. A tensor has shape (N, H, W) or (N, C, H, W). A numpy
            array has shape (N, H, W), (N, C, H, W) or (N, H, W, C). The channel axis of an array has 1 or 3 entries,
            and exactly one of the second and the last axis may have that size.
        labels: Integer class ids, (N,).
    """
    return Raw(_channels_first(images), _class_ids(labels))


def read_dataset(data: LabelledImages) -> Raw:
    """Return all items of a map-style dataset, and the class names in its attribute `classes` if it has one.

    Image tensors have shape (C, H, W) or (H, W). Image arrays have shape (H, W), (C, H, W) or (H, W, C). The channel
    axis of an array has 1 or 3 entries, and exactly one of the first and the last axis may have that size.
    """
    require(len(data) > 0, "data", "hold at least one item", len(data))
    images: list[Tensor] = []
    labels: list[int] = []
    for i in range(len(data)):
        image, label = _item(data[i], i)
        first = images[0] if images else image
        uniform = (image.shape, image.dtype) == (first.shape, first.dtype)
        rule = f"have the shape and dtype of item 0, {tuple(first.shape)} {first.dtype}"
        require(uniform, f"image of item {i}", rule, f"{tuple(image.shape)} {image.dtype}")
        images.append(image)
        labels.append(label)
    names = getattr(data, "classes", None)
    has_names = isinstance(names, list | tuple) and len(names) > max(labels)
    return Raw(torch.stack(images), torch.tensor(labels), tuple(map(str, names)) if has_names and names else None)


def _item(item: object, i: int) -> tuple[Tensor, int]:
    if not isinstance(item, tuple | list) or len(item) != 2:
        raise TypeError(f"item {i} must be a pair (image, class id), got {type(item).__name__}")
    image, label = item
    try:
        class_id = operator.index(label)
    except TypeError:
        raise TypeError(f"label of item {i} must be an integer class id, got {label!r}") from None
    if isinstance(image, Image.Image):
        pixels, _ = decode(image, f"image of item {i}")
        channels_first = torch.tensor(pixels if pixels.ndim == 2 else pixels.transpose(2, 0, 1))
        return channels_first.reshape(-1, *pixels.shape[:2]), class_id
    if not isinstance(image, Tensor | np.ndarray):
        rule = "be a PIL image, a tensor or a numpy array"
        raise TypeError(f"image of item {i} must {rule}, got {type(image).__name__}")
    return _channels_first(image[None], f"image of item {i}")[0], class_id


def _channels_first(images: object, name: str = "images") -> Tensor:
    if isinstance(images, Tensor):
        return _checked_tensor(images.detach(), name)
    if not isinstance(images, np.ndarray):
        raise TypeError(f"{name} must be a tensor or a numpy array, got {type(images).__name__}")
    if images.dtype.kind not in "uf" or (images.dtype.kind == "u" and images.dtype != np.uint8):
        raise TypeError(f"{name} must be uint8 or floating point, got {images.dtype}")
    # A copy, because the caller may change the array later.
    tensor = torch.tensor(np.ascontiguousarray(images))
    if tensor.ndim != 4:
        return _checked_tensor(tensor, name)
    first, last = tensor.shape[1] in (1, 3), tensor.shape[3] in (1, 3)
    rule = "have 1 or 3 channels on exactly one of the second and the last axis, or be a tensor (N, C, H, W)"
    require(first != last, name, rule, tuple(tensor.shape))
    return tensor if first else tensor.permute(0, 3, 1, 2).contiguous()


def _checked_tensor(images: Tensor, name: str) -> Tensor:
    shape = tuple(images.shape)
    require(images.ndim in (3, 4), name, "have shape (N, H, W) or (N, C, H, W)", shape)
    if images.ndim == 3:
        return images[:, None]
    channels_last = shape[3] in (1, 3) and shape[1] not in (1, 3)
    require(not channels_last, name, "have shape (N, C, H, W), so permute(0, 3, 1, 2) first", shape)
    return images


def _class_ids(labels: object) -> Tensor:
    if not isinstance(labels, Tensor | np.ndarray):
        raise TypeError(f"labels must be a tensor or a numpy array of integers, got {type(labels).__name__}")
    tensor = labels.detach() if isinstance(labels, Tensor) else None
    if tensor is None:
        array = cast("NDArray[Any]", labels)
        if array.dtype.kind not in "iu":
            raise TypeError(f"labels must be integers, got {array.dtype}")
        tensor = torch.tensor(array.astype(np.int64))
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        raise TypeError(f"labels must be integers, got {tensor.dtype}")
    require(tensor.ndim == 1, "labels", "have shape (N,)", tuple(tensor.shape))
    return tensor.long()
