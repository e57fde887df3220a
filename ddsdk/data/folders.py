"""Reader of image folders: one subfolder for each class, optionally inside of train/ and test/ folders."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import torch

from ddsdk.data.pictures import Pictures
from ddsdk.data.raw import Raw
from ddsdk.data.splits import KINDS, split_kind, usual_names
from ddsdk.data.unserved import refuse_unserved
from ddsdk.foundation import note

# Folders that archivers, file servers and operating systems leave behind.
_SYSTEM_FOLDERS = {"__macosx", "__pycache__", "@eadir", "$recycle.bin", "lost+found", "system volume information"}
_SUFFIXES = {
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".gif", ".webp", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
    # Pictures in none of `pictures.FORMATS`: they count as unreadable, and are never left out without a note.
    *(".tga", ".heic", ".heif", ".avif", ".jp2", ".jxl"),
}
_SYSTEM_FILES = {"thumbs.db", "desktop.ini"}


class PictureFiles(list[Path]):
    """Files of pictures, each of which is named by its path."""

    @property
    def files(self) -> list[Path]:
        """Files that hold the pictures."""
        return self

    def name(self, i: int) -> str:
        """Return the path of picture `i` for messages."""
        return f"image file {str(self[i])!r}"


def read_folder(folder: Path, split: str) -> Raw:
    """Return all pictures of one split of an image folder, in the order of their paths.

    Args:
        folder: Folder with class folders, or with split folders above class folders. Split folders have the usual names
            in any case, such as train, Training, training_set, test, val and validation. Hidden files, system folders
            such as __MACOSX, and files without the suffix of a picture are skipped.
        split: Split to read, "train" or "test"; class folders without a split folder are all "train".

    Raises:
        ValueError: If there are fewer than two class folders, or a class folder has no pictures or only folders.
    """
    refuse_unserved(folder)
    parent = _split_folder(folder, split)
    if parent != folder:
        refuse_unserved(parent)
    class_folders = _subfolders(parent)
    if len(class_folders) < 2:
        raise ValueError(f"folder {str(parent)!r} must hold one subfolder for each class, got {len(class_folders)}")
    _note_left_out(parent, class_folders)
    files: list[Path] = []
    labels: list[int] = []
    for label, class_folder in enumerate(class_folders):
        pictures = _pictures(class_folder)
        if not pictures:
            raise ValueError(f"class folder {str(class_folder)!r} must hold pictures, such as .png or .jpg, got none")
        if all(picture.parent != class_folder for picture in pictures):
            inner = [path.name for path in _subfolders(class_folder)]
            raise ValueError(
                f"class folder {str(class_folder)!r} must hold pictures itself, got folders only, {inner}: "
                "move the class folders to one level"
            )
        deep = sum(picture.parent != class_folder for picture in pictures)
        if deep:
            note(f"{deep} pictures in folders below class folder {class_folder.name!r} belong to this class")
        files += pictures
        labels += [label] * len(pictures)
    return Raw(
        Pictures(PictureFiles(files)), torch.tensor(labels), tuple(class_folder.name for class_folder in class_folders)
    )


def _split_folder(folder: Path, split: str) -> Path:
    """Return the folder of the class folders of a split.

    Raises:
        ValueError: If the split does not exist, or the folders do not show which pictures belong to it.
    """
    subfolders = _subfolders(folder)
    # A class may have the name "train"; only a folder with subfolders is a split folder.
    split_folders = [path for path in subfolders if split_kind(path.name) and _subfolders(path)]
    if not split_folders:
        named = [path.name for path in subfolders if split_kind(path.name)]
        if len(named) >= 2:
            raise ValueError(f"folder {str(folder)!r} must hold class folders in its split folders {named}, got none")
        if split == "train":
            return folder
    beside = [path.name for path in subfolders if path not in split_folders]
    if split_folders and beside:
        names = [path.name for path in split_folders]
        raise ValueError(f"folder {str(folder)!r} must hold nothing beside its split folders {names}, got {beside}")
    for kind in KINDS[split]:
        found = [path for path in split_folders if split_kind(path.name) == kind]
        if len(found) > 1:
            names = [path.name for path in found]
            raise ValueError(f"folder {str(folder)!r} must hold one {kind} folder, got {names}")
        if found:
            return found[0]
    other = "; or pass test data, as load_pair(data, test) or --test" if split == "test" else ""
    rule = f"hold {usual_names(split)} with class folders to have a {split} split{other}"
    raise ValueError(f"folder {str(folder)!r} must {rule}, got {[path.name for path in subfolders]}")


def _note_left_out(parent: Path, class_folders: list[Path]) -> None:
    beside = sum(path.suffix.lower() in _SUFFIXES and path.name[0] != "." for path in parent.iterdir())
    if beside:
        note(f"{beside} pictures in {str(parent)!r} are in no class folder, and are left out")
    others = [path for folder in class_folders for path in folder.rglob("*") if _is_other(path)]
    if others:
        counts = Counter(path.suffix.lower() or path.name for path in others)
        shown = ", ".join(f"{suffix} ({count})" for suffix, count in counts.most_common(5))
        note(f"{len(others)} files in class folders are no pictures by their suffix, and are left out: {shown}")


def _is_other(path: Path) -> bool:
    is_system = path.name.startswith(".") or path.name.casefold() in _SYSTEM_FILES
    return not is_system and path.suffix.lower() not in _SUFFIXES and path.is_file()


def _subfolders(folder: Path) -> list[Path]:
    visible = (path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    return sorted(path for path in visible if path.name.casefold() not in _SYSTEM_FOLDERS)


def _pictures(folder: Path) -> list[Path]:
    pictures = (path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES and path.is_file())
    return sorted(path for path in pictures if not path.name.startswith("."))


def holds_class_folders(folder: Path) -> bool:
    """Return whether a folder below this one, at most two levels deep, holds pictures itself."""
    inner = _subfolders(folder)
    places = [*inner, *(path for place in inner for path in _subfolders(place))]
    return any(path.suffix.lower() in _SUFFIXES for place in places for path in place.iterdir())
