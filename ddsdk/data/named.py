"""Data sets by name: scikit-learn's digits, docstrings of Python, and those that torchvision knows."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ddsdk.data.parquet import parquet_files, read_parquet
from ddsdk.data.python_docs import read_python_docs
from ddsdk.data.raw import Raw, fixed_part

# Class in torchvision.datasets, and whether its split is train=True/False or split="train"/"test".
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
"""Data sets whose images are no pictures but sentences of word vectors."""

MIRROR_SAFE: tuple[str, ...] = ("fashion-mnist", "cifar10", "cifar100", "stl10")
"""Data sets whose mirror images have the same class. Characters and sentences have not: a mirrored 2 looks like a 5."""

_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def known_name(name: str) -> str | None:
    """Return the spelling of `NAMED` that `name` means, blind to case, hyphens and underscores, or None."""
    return {_squeeze(key): key for key in NAMED}.get(_squeeze(name))


def nearest_name(name: str) -> str | None:
    """Return the name in `NAMED` that looks most like `name`, if any does."""
    near = difflib.get_close_matches(name.lower(), NAMED, n=1, cutoff=0.5)
    return near[0] if near else None


def read_named(name: str, split: str, root: Path) -> Raw:
    """Read one split of a named data set.

    Files are looked for under `root` first where torchvision puts them, then as parquet files in the folder
    root/name; if there are none torchvision downloads them.

    Args:
        name: One of `NAMED`.
        split: "train" or "test".
        root: Folder of the data sets.

    Raises:
        FileNotFoundError: If the files are not there and cannot be downloaded.
    """
    if name == "digits":
        return _digits(split)
    if name == "python-docs":
        return read_python_docs(split)
    from torchvision import datasets

    kind, argument = _TORCHVISION[name]
    build = getattr(datasets, kind)
    options: dict[str, Any] = {argument: split if argument == "split" else split == "train"}
    try:
        return _from_torchvision(build(str(root), download=False, **options))
    # torchvision says by these errors that files are missing or damaged.
    except (RuntimeError, FileNotFoundError):
        pass
    if (root / name).is_dir() and parquet_files(root / name):
        raw = read_parquet(root / name, split)
        names = raw.class_names or (_CIFAR10 if name == "cifar10" else None)
        return Raw(raw.images, raw.labels, names)
    root.mkdir(parents=True, exist_ok=True)
    try:
        return _from_torchvision(build(str(root), download=True, **options))
    except (RuntimeError, OSError) as error:
        where = f"{name} is not under {str(root)!r}, and its download failed"
        raise FileNotFoundError(f"{where} (put the files there, or pass root=...): {error}") from error


def _squeeze(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


def _from_torchvision(found: Any) -> Raw:  # noqa: ANN401
    images = torch.as_tensor(found.data)
    # Grey sets come without a channel axis, CIFAR with a last one, SVHN and STL-10 with it in its place.
    if images.ndim == 3:
        images = images[:, None]
    elif images.shape[3] == 3:
        images = images.permute(0, 3, 1, 2).contiguous()
    labels = found.targets if hasattr(found, "targets") else found.labels
    classes = getattr(found, "classes", None)
    return Raw(images, torch.as_tensor(labels).long(), tuple(map(str, classes)) if classes else None)


def _digits(split: str) -> Raw:
    from sklearn.datasets import load_digits

    found = load_digits()
    labels = torch.from_numpy(found.target.astype(np.int64))
    chosen = []
    for c in range(10):
        members = torch.nonzero(labels == c).flatten()
        chosen.append(members[fixed_part(len(members), split, "digits", "split", c)])
    index = torch.cat(chosen).sort().values
    images = torch.from_numpy(found.images.astype(np.float32) / 16)[:, None]
    return Raw(images[index], labels[index], tuple(map(str, range(10))))
