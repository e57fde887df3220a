"""Reader of image folders: one subfolder for each class, optionally inside of train/ and test/ folders."""

from __future__ import annotations

from pathlib import Path

import torch

from ddsdk.data.raw import Raw, decode, stack

SPLIT_NAMES: dict[str, tuple[str, ...]] = {"train": ("train",), "test": ("test", "val")}
"""Folder names of each split, by priority."""

_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff"}


def read_folder(folder: Path, split: str, resize: tuple[int, int] | None = None) -> Raw:
    """Return all pictures of one split of an image folder, in the order of their paths.

    Args:
        folder: Folder with class folders, or with the folders train/ and test/ (or val/) above class folders. Hidden
            files, and files without the suffix of a picture, are skipped.
        split: Split to read, "train" or "test"; class folders without a split folder are all "train".
        resize: Height and width in pixels to which pictures are resampled; None requires pictures of one size.

    Raises:
        ValueError: If there are fewer than two class folders, or a class folder has no pictures.
    """
    parent = _split_folder(folder, split)
    class_folders = _subfolders(parent)
    if len(class_folders) < 2:
        raise ValueError(f"folder {str(parent)!r} must hold one subfolder for each class, got {len(class_folders)}")
    files: list[Path] = []
    labels: list[int] = []
    for label, class_folder in enumerate(class_folders):
        pictures = _pictures(class_folder)
        if not pictures:
            raise ValueError(f"class folder {str(class_folder)!r} must hold pictures, such as .png or .jpg, got none")
        files += pictures
        labels += [label] * len(pictures)
    names = [f"image file {str(file)!r}" for file in files]
    images = stack([decode(file, name, resize) for file, name in zip(files, names, strict=True)], names)
    return Raw(images, torch.tensor(labels), tuple(class_folder.name for class_folder in class_folders))


def _split_folder(folder: Path, split: str) -> Path:
    # A class may have the name "train"; only a folder with subfolders is a split folder.
    all_names = [name for names in SPLIT_NAMES.values() for name in names]
    present = [name for name in all_names if (folder / name).is_dir() and _subfolders(folder / name)]
    for name in SPLIT_NAMES[split]:
        if name in present:
            return folder / name
    if split == "train" and not present:
        return folder
    split_folders = " or ".join(f"{name}/" for name in SPLIT_NAMES[split])
    raise ValueError(f"folder {str(folder)!r} must hold {split_folders} with class folders to have a {split} split")


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _pictures(folder: Path) -> list[Path]:
    pictures = (path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES and path.is_file())
    return sorted(path for path in pictures if not path.name.startswith("."))
