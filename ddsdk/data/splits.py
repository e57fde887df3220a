"""Names of splits, in folders and in file names."""

from __future__ import annotations

import re
from collections.abc import Mapping

_NAMES: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "training", "train_set", "training_set", "trainset"),
    "test": ("test", "testing", "test_set", "testing_set", "testset"),
    "validation": ("val", "valid", "validation", "val_set", "validation_set", "eval", "evaluation", "dev"),
}
KINDS: Mapping[str, tuple[str, ...]] = {"train": ("train",), "test": ("test", "validation")}
"""Kinds of folders and files that serve as each split; the first kind that exists counts."""

_KIND_OF = {name: kind for kind, names in _NAMES.items() for name in names}


def split_kind(name: str) -> str | None:
    """Return "train", "test" or "validation" for the name of a folder, in any case; None for any other name."""
    return _KIND_OF.get(re.sub(r"[-\s]+", "_", name.casefold()))


def split_kinds_in(file_name: str) -> set[str]:
    """Return the kinds of splits among the words of a file name, which are separated by signs such as "-" and "_"."""
    words = re.split(r"[^a-z0-9]+", file_name.casefold())
    return {_KIND_OF[word] for word in words if word in _KIND_OF}


def usual_names(split: str) -> str:
    """Return the usual names of a split for an error message, such as ``"test or val"``."""
    return " or ".join(_NAMES[kind][0] for kind in KINDS[split])
