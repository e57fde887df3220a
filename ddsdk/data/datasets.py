"""Reader of map-style datasets of PyTorch, also inside of Subset and DataLoader, with items of usual forms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ddsdk.data.arrays import Channels, channels_first, unit_or_bytes
from ddsdk.data.labels import class_labels
from ddsdk.data.pictures import Pictures
from ddsdk.data.raw import Raw
from ddsdk.foundation import note, require

IMAGE_NAMES = ("image", "images", "img", "picture", "photo", "pixel_values", "x", "input", "inputs", "data")
"""Usual names of images, in columns, in items that are dictionaries and in archives of arrays."""

LABEL_NAMES = ("label", "labels", "class", "target", "targets", "y", "category")
"""Usual names of labels."""

_PROBED_ITEMS, _PROBES = 3, 3


class LabelledImages(Protocol):
    """Map-style dataset with items (image, label), such as a dataset of torchvision."""

    def __len__(self) -> int:
        """Return the number of items."""
        ...

    def __getitem__(self, index: int, /) -> Any:  # noqa: ANN401
        """Return an item: a pair (image, label), or a dictionary with usual keys."""
        ...


class DatasetPictures:
    """Pictures of the items of a dataset, which reads an item at each access."""

    def __init__(self, data: LabelledImages) -> None:
        self.data = data

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.data)

    def __getitem__(self, i: int) -> Image.Image:
        """Return the picture of item `i`.

        Raises:
            TypeError: If the item holds no PIL image.
        """
        image, _ = _item(self.data[i], i)
        if not isinstance(image, Image.Image):
            raise TypeError(f"{self.name(i)} must be a PIL image as in item 0, got {type(image).__name__}")
        return image

    def name(self, i: int) -> str:
        """Return the name of picture `i` for messages."""
        return f"image of item {i}"


def read_dataset(data: LabelledImages, channels: Channels | None = None) -> Raw:
    """Return the items of a map-style dataset, and the class names in its attribute `classes` if it has one.

    Items are pairs (image, label), or dictionaries with usual keys such as "image" and "label". The dataset of a
    DataLoader is read, and class names are also found inside of `torch.utils.data.Subset`. PIL images are decoded
    later. ValueError is raised for datasets with random transforms.

    Args:
        data: Dataset with `__len__` and `__getitem__`, or a DataLoader.
        channels: Position of the channel axis in tensors and arrays, "first" or "last"; None finds it by the sizes.

    Raises:
        TypeError: If the items are not numbered, or are of an unsupported type.
    """
    data = _without_loader(data)
    if not hasattr(data, "__len__") or not hasattr(data, "__getitem__"):
        raise TypeError(f"data must have a length and numbered items, got the iterable dataset {type(data).__name__}")
    require(len(data) > 0, "data", "hold at least one item", len(data))
    _refuse_random(data)
    first, _ = _item(data[0], 0)
    labels: list[Any] = []
    images: Tensor | None = None
    for i in range(len(data)):
        image, label = _item(data[i], i)
        labels.append(_label(label, i))
        if not isinstance(first, Image.Image):
            tensor = _tensor(image, channels, i)
            if images is None:
                images = torch.empty((len(data), *tensor.shape), dtype=tensor.dtype)
            uniform = (tensor.shape, tensor.dtype) == (images.shape[1:], images.dtype)
            rule = f"have the shape and dtype of item 0, {tuple(images.shape[1:])} {images.dtype}"
            require(uniform, f"image of item {i}", rule, f"{tuple(tensor.shape)} {tensor.dtype}")
            images[i] = tensor
    ids, names = class_labels(labels)
    if names is None:
        names = _class_names(data, int(ids.max()))
    return Raw(Pictures(DatasetPictures(data)) if images is None else unit_or_bytes(images), ids, names)


def _without_loader(data: Any) -> LabelledImages:  # noqa: ANN401
    from torch.utils.data import DataLoader, RandomSampler, SequentialSampler

    while isinstance(data, DataLoader):
        sampler = type(data.sampler).__name__
        plain = isinstance(data.sampler, RandomSampler | SequentialSampler)
        rule = "have no sampler that chooses items; pass its dataset, or a torch.utils.data.Subset of it"
        require(plain, "DataLoader", rule, sampler)
        data = data.dataset
        note("the dataset of the DataLoader is read; its batches and its shuffling are not used")
    dataset: LabelledImages = data
    return dataset


def _refuse_random(data: LabelledImages) -> None:
    for i in range(min(_PROBED_ITEMS, len(data))):
        seen = [_pixels(_item(data[i], i)[0]) for _ in range(_PROBES)]
        same = all(np.array_equal(seen[0], again, equal_nan=seen[0].dtype.kind == "f") for again in seen[1:])
        rule = "give the same image at each reading; leave out random transforms, because recipes augment images"
        require(same, "data", rule, f"different images of item {i}")


def _pixels(image: object) -> Any:  # noqa: ANN401
    return image.detach().cpu().numpy() if isinstance(image, Tensor) else np.asarray(image)


def _item(item: object, i: int) -> tuple[Any, Any]:
    if isinstance(item, Mapping):
        if "boxes" in item or "bbox" in item or "objects" in item:
            raise ValueError(f"item {i} must have one class; object detection is not supported, got {list(item)}")
        image, label = (usual_name(list(item), usual) for usual in (IMAGE_NAMES, LABEL_NAMES))
        if image is None or label is None:
            raise TypeError(f"item {i} must have the keys 'image' and 'label', got {list(item)}")
        return item[image], item[label]
    if not isinstance(item, tuple | list) or len(item) != 2:
        got = f"{len(item)} entries" if isinstance(item, tuple | list) else type(item).__name__
        raise TypeError(f"item {i} must be a pair (image, class id) or a dictionary, got {got}")
    if isinstance(item[1], Mapping):
        raise ValueError(f"item {i} must have one class; object detection is not supported, got {list(item[1])}")
    return item[0], item[1]


def usual_name(names: Sequence[str], usual: Sequence[str]) -> str | None:
    """Return the first of the usual names, in any case, among `names`; None if there is none."""
    folded = {name.casefold(): name for name in reversed(names) if isinstance(name, str)}
    return next((folded[name] for name in usual if name in folded), None)


def _label(label: object, i: int) -> object:
    value = label.tolist() if isinstance(label, Tensor | np.ndarray | np.generic) else label
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, Image.Image) or (isinstance(value, list) and value and isinstance(value[0], list)):
        raise ValueError(f"label of item {i} must be a class id; segmentation masks are not supported")
    if not isinstance(value, int | float | str | list | tuple):
        raise TypeError(f"label of item {i} must be a class id or a class name, got {label!r}")
    return value


def _tensor(image: object, channels: Channels | None, i: int) -> Tensor:
    if not isinstance(image, Tensor | np.ndarray):
        rule = "be a PIL image, a tensor or a numpy array"
        raise TypeError(f"image of item {i} must {rule}, got {type(image).__name__}")
    return channels_first(image[None], channels, f"image of item {i}")[0]


def _class_names(data: object, largest: int) -> tuple[str, ...] | None:
    """Return the names in the attribute `classes` of a dataset, or of the dataset inside of a Subset."""
    from torch.utils.data import ConcatDataset, Subset

    while isinstance(data, Subset | ConcatDataset):
        data = data.dataset if isinstance(data, Subset) else data.datasets[0]
    names = getattr(data, "classes", None)
    has_names = isinstance(names, list | tuple) and len(names) > largest
    return tuple(map(str, names)) if has_names and names else None
