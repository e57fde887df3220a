"""Data sets by name: the digits of scikit-learn, docstrings of Python, and data sets of torchvision."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ddsdk.data.parquet import read_parquet
from ddsdk.data.python_docs import read_python_docs
from ddsdk.data.raw import Raw, fixed_part
from ddsdk.data.splits import nested_files
from ddsdk.foundation import make_folder

# Class in torchvision.datasets, and its argument for the split: train=True/False or split="train"/"test".
_TORCHVISION: dict[str, tuple[str, str]] = {
    "mnist": ("MNIST", "train"),
    "fashion-mnist": ("FashionMNIST", "train"),
    "kmnist": ("KMNIST", "train"),
    "usps": ("USPS", "train"),
    "cifar10": ("CIFAR10", "train"),
    "cifar100": ("CIFAR100", "train"),
    "svhn": ("SVHN", "split"),
    "stl10": ("STL10", "split"),
}
NAMED: tuple[str, ...] = ("digits", "python-docs", *_TORCHVISION)
TEXTS: tuple[str, ...] = ("python-docs",)
"""Text data sets, whose "images" are matrices of word vectors."""

MIRROR_SAFE: tuple[str, ...] = ("fashion-mnist", "cifar10", "cifar100", "stl10")
"""Data sets in which the mirror image of an image has the same class; not so for characters, such as 2 and 5."""

_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def known_name(name: str) -> str | None:
    """Return the name in `NAMED` that equals `name` up to case, hyphens and underscores, or None."""
    return {_squeeze(key): key for key in NAMED}.get(_squeeze(name))


def nearest_name(name: str) -> str | None:
    """Return the name in `NAMED` that is most similar to `name`, or None if none is similar."""
    similar = difflib.get_close_matches(name.lower(), NAMED, n=1, cutoff=0.5)
    return similar[0] if similar else None


def read_named(name: str, split: str, root: Path) -> Raw:
    """Return one split of a named data set.

    Files are searched first at the places where torchvision stores them under `root`, and then as parquet files in
    the folder root/name. If there are none, torchvision downloads them.

    Args:
        name: Name of the data set, one of `NAMED`.
        split: Split to read, "train" or "test".
        root: Folder of the downloaded data sets.

    Raises:
        FileNotFoundError: If the files are missing and cannot be downloaded.
        ValueError: If the files are there and cannot be read.
    """
    if name == "digits":
        return _digits(split)
    if name == "python-docs":
        return read_python_docs(split)
    from torchvision import datasets

    class_name, argument = _TORCHVISION[name]
    build = getattr(datasets, class_name)
    options: dict[str, Any] = {argument: split if argument == "split" else split == "train"}
    try:
        return _from_torchvision(build(str(root), download=False, **options))
    # torchvision has one error for missing files, and errors of any type for files that it cannot read.
    except Exception as error:
        if not isinstance(error, FileNotFoundError) and "not found" not in str(error):
            way_out = f"be readable; delete its folder in {str(root)!r} to download it anew"
            reason = str(error) or type(error).__name__
            raise ValueError(f"the {split} files of {name} must {way_out}, got an error: {reason}") from error
    if (root / name).is_dir() and nested_files(root / name, (".parquet",)):
        raw = read_parquet(root / name, split)
        names = raw.class_names or (_CIFAR10 if name == "cifar10" else None)
        return Raw(raw.images, raw.labels, names)
    make_folder(root)
    try:
        return _from_torchvision(build(str(root), download=True, **options))
    except (RuntimeError, OSError) as error:
        cause = f"{name} is not under {str(root)!r}, and its download failed"
        raise FileNotFoundError(f"{cause} (put the files there, or pass root=...): {error}") from error


def _squeeze(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


def _from_torchvision(dataset: Any) -> Raw:  # noqa: ANN401
    images = torch.as_tensor(dataset.data)
    # Grey data sets have no channel axis; CIFAR has it last, and SVHN and STL-10 have it second.
    if images.ndim == 3:
        images = images[:, None]
    elif images.shape[3] == 3:
        images = images.permute(0, 3, 1, 2).contiguous()
    labels = dataset.targets if hasattr(dataset, "targets") else dataset.labels
    classes = getattr(dataset, "classes", None)
    return Raw(images, torch.as_tensor(labels).long(), tuple(map(str, classes)) if classes else None)


def _digits(split: str) -> Raw:
    from sklearn.datasets import load_digits

    digits = load_digits()
    labels = torch.from_numpy(digits.target.astype(np.int64))
    class_parts = []
    for c in range(10):
        members = torch.nonzero(labels == c).flatten()
        class_parts.append(members[fixed_part(len(members), split, "digits", "split", c)])
    index = torch.cat(class_parts).sort().values
    images = torch.from_numpy(digits.images.astype(np.float32) / 16)[:, None]
    return Raw(images[index], labels[index], tuple(map(str, range(10))))
