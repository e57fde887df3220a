"""Names of splits, in folders and in file names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

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


def files_of_split(path: Path, split: str, suffixes: Sequence[str], configuration: str | None = None) -> list[Path]:
    """Return the files of one split, from a file, or from a folder with the splits in names of files or folders.

    Folders of the Hugging Face hub are read: split folders such as ``train/0000.parquet`` count, and the folders above
    them are configurations, except a folder ``data``.

    Args:
        path: File, all of whose rows are "train", or folder.
        split: Split to read, "train" or "test".
        suffixes: Suffixes of the files, such as ".parquet".
        configuration: Name of the configuration, the folder above the splits; None requires that there is one.

    Raises:
        ValueError: If there are no files of this split, or it is not clear which ones are meant.
    """
    if path.is_file():
        if split != "train":
            rule = "be a folder with files for both splits, or come with test=..., to have a test split"
            raise ValueError(f"data must {rule}, got {str(path)!r}")
        return [path]
    files = {file: _place(file.relative_to(path)) for file in nested_files(path, suffixes)}
    configurations = sorted({place[0] for place in files.values()})
    if configuration is not None and configuration not in configurations:
        raise ValueError(f"configuration must be one of {configurations} of {str(path)!r}, got {configuration!r}")
    if configuration is None and len(configurations) > 1:
        raise ValueError(f"configuration must be given for {str(path)!r}, got several: {configurations}")
    kinds = {file: found for file, (name, found) in files.items() if configuration in (None, name)}
    ambiguous = [file.name for file in kinds if len(kinds[file]) > 1]
    if ambiguous:
        raise ValueError(f"data must hold files whose names have one split each, got {ambiguous}")
    for kind in KINDS[split]:
        split_files = [file for file in kinds if kind in kinds[file]]
        if split_files:
            return split_files
    if split == "train" and kinds and not any(kinds.values()):
        return list(kinds)
    shown = [str(file.relative_to(path)) for file in kinds]
    rule = f"hold {suffixes[0]} files with {usual_names(split)} as a word of their names to have a {split} split"
    raise ValueError(f"folder {str(path)!r} must {rule}, got {shown}")


def nested_files(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """Return the files with a suffix in a folder and up to three levels below it, sorted by path.

    Deeper files are not searched if there are any in the folder itself or in its subfolder data/.
    """
    for patterns in (("*", "data/*"), ("*/*", "*/*/*", "*/*/*/*")):
        found = [file for pattern in patterns for suffix in suffixes for file in folder.glob(f"{pattern}{suffix}")]
        files = [file for file in found if not is_special(file)]
        visible = [f for f in files if not any(part.startswith(".") for part in f.relative_to(folder).parts)]
        if visible:
            return sorted(visible)
    return []


def is_special(path: Path) -> bool:
    """Return whether a path is a folder, a pipe or a device; opening a pipe would wait for its writer.

    A link without a target is none of these: opening it gives an error that names it.
    """
    return path.exists() and not path.is_file()


def _place(file: Path) -> tuple[str, set[str]]:
    """Return the configuration and the kinds of splits of a file, from its path below the folder of the data set."""
    *folders, name = file.parts
    kinds = {kind for kind in (split_kind(folder) for folder in folders) if kind}
    above = [folder for folder in folders if not split_kind(folder) and folder != "data"]
    return "/".join(above), kinds or split_kinds_in(Path(name).stem)
