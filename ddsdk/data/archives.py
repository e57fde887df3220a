"""Reader of numpy files: .npz archives, and .npy files of one folder, with images and labels under usual names."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ddsdk.data.arrays import Channels, read_arrays
from ddsdk.data.datasets import IMAGE_NAMES, LABEL_NAMES
from ddsdk.data.preprocess import Preprocess
from ddsdk.data.raw import Raw
from ddsdk.data.splits import KINDS, split_kinds_in
from ddsdk.foundation import note, require, require_memory

Read = Callable[[], NDArray[Any]]


def read_numpy(path: Path, split: str, channels: Channels | None = None) -> Raw:
    """Return one split of a .npz archive, of a .npy file with its labels beside it, or of a folder of .npy files.

    The names of arrays and files have a usual word for images or labels, and a word for the split if there are several:
    images and labels, x_train and y_train, train_images and train_labels, val_images. A file of `ddsdk.to_npz` holds a
    distilled set; its images are brought back from its value space, and its class ids are the labels.

    Args:
        path: File with the suffix .npz or .npy, or folder with .npy files.
        split: Split to read, "train" or "test".
        channels: Position of the channel axis, "first" or "last"; None finds it by the sizes of the axes.
    """
    arrays = _arrays(path)
    if {"metadata", "owner", "images"} <= arrays.keys():
        require(split == "train", "data", "come with test=..., because a distilled set has no test split", str(path))
        return _distilled(arrays, path)
    only = path.stem if path.suffix == ".npy" else None
    images, labels = _pair(list(arrays), split, only, path)
    return read_arrays(arrays[images](), arrays[labels](), channels, f"images in {images!r} of {str(path)!r}")


def _arrays(path: Path) -> Mapping[str, Read]:
    if path.suffix == ".npz":
        return {name: lambda name=name: _load(path, name) for name in _load_names(path)}  # type: ignore[misc]
    folder = path if path.is_dir() else path.parent
    files = sorted(folder.glob("*.npy"))
    return {file.stem: lambda file=file: _load(file) for file in files}  # type: ignore[misc]


def _load_names(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist()]
    # A damaged archive gives errors of any type.
    except Exception as error:
        raise ValueError(f"numpy file {str(path)!r} must be readable, got an error: {error}") from error


def _load(path: Path, name: str | None = None) -> NDArray[Any]:
    try:
        if name is None:
            array: NDArray[Any] = np.load(path, allow_pickle=False)
        else:
            with np.load(path, allow_pickle=False) as archive:
                require_memory(archive.zip.getinfo(f"{name}.npy").file_size, f"array {name!r}")
                array = archive[name]
    # numpy raises ValueError for pickled objects, and errors of any type for damaged arrays.
    except Exception as error:
        raise ValueError(f"numpy file {str(path)!r} must be readable without pickle, got an error: {error}") from error
    return array


def _role(name: str) -> str | None:
    words = set(name.casefold().replace("-", "_").split("_"))
    is_image, is_label = words & {*IMAGE_NAMES, "imgs"}, words & {*LABEL_NAMES}
    # "data" and "x" are images only where no word for labels stands beside them, as in data_labels.
    return "labels" if is_label else "images" if is_image else None


def _pair(names: list[str], split: str, only: str | None, path: Path) -> tuple[str, str]:
    """Return the names of the images and the labels of a split.

    Raises:
        ValueError: If none or several arrays may be meant.
    """
    if only is not None and _role(only) != "images":
        raise ValueError(f"data must name a file of images, such as images.npy or x_train.npy, got {str(path)!r}")
    kinds = {name: split_kinds_in(name) for name in names if _role(name)}
    for kind in (*KINDS[split], None) if only is None else (next(iter(split_kinds_in(only)), None),):
        if kind is None and split == "test":
            continue
        members = [name for name, found in kinds.items() if (kind in found if kind else not found)]
        images = [name for name in members if _role(name) == "images" and only in (None, name)]
        labels = [name for name in members if _role(name) == "labels"]
        if len(images) == 1 and len(labels) == 1:
            return images[0], labels[0]
        rule = f"hold one array of images and one of labels for {split}"
        require(len(images) <= 1 and len(labels) <= 1, f"{str(path)!r}", rule, sorted(members))
    word = "train" if split == "train" else "test"
    example = f"{word}_images and {word}_labels, or x_{word} and y_{word}"
    example += ", or images and labels" if split == "train" else ""
    beside = "" if path.suffix == ".npz" else " beside it, each in a .npy file"
    raise ValueError(f"{str(path)!r} must hold {example}{beside}, got {names}")


def _distilled(arrays: Mapping[str, Read], path: Path) -> Raw:
    try:
        manifest = json.loads(str(arrays["metadata"]()))
        state, names = manifest["preprocess"], tuple(map(str, manifest["class_names"]))
        tensors = {name: torch.from_numpy(read()) for name, read in arrays.items() if name.startswith("zca_")}
        preprocess = Preprocess.from_state(state, tensors)
    except (KeyError, TypeError, RecursionError, json.JSONDecodeError) as error:
        raise ValueError(f"{str(path)!r} must hold the manifest of a distilled set, got an error: {error}") from error
    unit = preprocess.inverse(torch.from_numpy(arrays["images"]()).float())
    note(f"{str(path)!r} is a distilled set: images are clipped to the unit range, soft labels are not used")
    return Raw(unit.clamp(0, 1), torch.from_numpy(arrays["owner"]()).long(), names)
