"""Image folders: one subfolder for each class, with or without train/ and test/ above them."""

from __future__ import annotations

from pathlib import Path

import torch

from ddsdk.data.raw import Raw, decode, stack

SPLIT_NAMES: dict[str, tuple[str, ...]] = {"train": ("train",), "test": ("test", "val")}
"""Names of the folders of a split; the first one found counts."""

_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff"}


def read_folder(folder: Path, split: str, resize: tuple[int, int] | None = None) -> Raw:
    """Read every picture below the class folders, in the order of their names.

    Args:
        folder: Folder of class folders, or of the folders train/ and test/ (or val/) that hold them. Files that have
            no suffix of a picture and hidden files are passed over.
        split: "train" or "test". Class folders without a split above them are all "train".
        resize: Height and width to resample to, or None to demand one size.
    """
    home = _split_folder(folder, split)
    classes = _subfolders(home)
    if len(classes) < 2:
        raise ValueError(f"folder {str(home)!r} must hold one subfolder for each class, got {len(classes)}")
    files: list[Path] = []
    labels: list[int] = []
    for label, where in enumerate(classes):
        found = _pictures(where)
        if not found:
            raise ValueError(f"class folder {str(where)!r} must hold pictures, such as .png or .jpg, got none")
        files += found
        labels += [label] * len(found)
    names = [f"image file {str(file)!r}" for file in files]
    images = stack([decode(file, name, resize) for file, name in zip(files, names, strict=True)], names)
    return Raw(images, torch.tensor(labels), tuple(where.name for where in classes))


def _split_folder(folder: Path, split: str) -> Path:
    # A class may be called "train"; a split folder is one that holds folders itself.
    every = [name for names in SPLIT_NAMES.values() for name in names]
    present = [name for name in every if (folder / name).is_dir() and _subfolders(folder / name)]
    for name in SPLIT_NAMES[split]:
        if name in present:
            return folder / name
    if split == "train" and not present:
        return folder
    wanted = " or ".join(f"{name}/" for name in SPLIT_NAMES[split])
    raise ValueError(f"folder {str(folder)!r} must hold {wanted} with class folders to have a {split} split")


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _pictures(folder: Path) -> list[Path]:
    found = (path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES and path.is_file())
    return sorted(path for path in found if not path.name.startswith("."))
