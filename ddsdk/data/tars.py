"""Reader of webdataset tar files: members of one stem are an item, with a picture and its class."""

from __future__ import annotations

import tarfile
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import torch

from ddsdk.data.pictures import Pictures
from ddsdk.data.raw import Raw
from ddsdk.data.splits import files_of_split
from ddsdk.foundation import require, strict_json

TARS = (".tar",)
"""Suffixes of tar files that can be read; a compressed file has no places at which members can be read."""

_PICTURES = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "ppm", "pgm", "tif", "tiff")
_CLASS_KEYS = ("class_name", "label", "cls", "class")
_CLASS_BYTES = 1 << 20


class _Place(NamedTuple):
    file: Path
    start: int
    size: int
    name: str


class TarPictures:
    """Encoded pictures in tar files, which are read at their places in the files."""

    def __init__(self, places: list[_Place]) -> None:
        self._places = places

    @property
    def files(self) -> list[Path]:
        """Files that hold the pictures."""
        return sorted({place.file for place in self._places})

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self._places)

    def __getitem__(self, i: int) -> bytes:
        """Return the bytes of picture `i`."""
        place = self._places[i]
        with place.file.open("rb") as file:
            file.seek(place.start)
            return file.read(place.size)

    def name(self, i: int) -> str:
        """Return member and file of picture `i` for messages."""
        return f"member {self._places[i].name!r} of {str(self._places[i].file)!r}"


def read_tars(path: Path, split: str) -> Raw:
    """Return the pictures of one split of tar files in the layout of webdataset, in the order of the files.

    Members whose names are equal up to the first dot of their last part are one item. It has one picture (``.jpg``,
    ``.png`` …) and its class: a number or a name in a member ``.cls``, or an entry "class_name", "label", "cls" or
    "class" of an object in a member ``.json``. Other members are skipped. Numbers are class ids; names are classes in
    alphabetical order. A file that is no tar file, and an item without a class or with several pictures, are a
    ValueError.

    Args:
        path: Tar file, or folder of tar files with the split in names of files or folders.
        split: Split to read, "train" or "test".
    """
    places: list[_Place] = []
    classes: list[int | str] = []
    for file in files_of_split(path, split, TARS):
        for place, label in _items(file):
            places.append(place)
            classes.append(label)
    require(bool(places), f"tar files {str(path)!r}", "hold items of a picture and its class", "no pictures")
    named = {isinstance(label, str) for label in classes}
    require(len(named) == 1, f"classes of {str(path)!r}", "be all numbers or all names", "both")
    pictures = Pictures(TarPictures(places))
    if named == {False}:
        return Raw(pictures, torch.tensor(classes))
    names = sorted(set(map(str, classes)))
    positions = {name: c for c, name in enumerate(names)}
    return Raw(pictures, torch.tensor([positions[str(label)] for label in classes]), tuple(names))


def _items(file: Path) -> list[tuple[_Place, int | str]]:
    """Return the places and classes of the items of one file, in the order of their pictures.

    Raises:
        ValueError: If the file is no tar file, or an item has no class.
    """
    pictures: dict[str, _Place] = {}
    classes: dict[str, int | str] = {}
    try:
        with tarfile.open(file, "r:") as tar:
            for member in tar:
                path = PurePosixPath(member.name)
                if not member.isfile() or path.name.startswith("."):
                    continue
                last, _, suffix = path.name.partition(".")
                stem, suffix = str(path.with_name(last)), suffix.casefold()
                where = f"item {stem!r} of {str(file)!r}"
                if suffix in _PICTURES:
                    require(stem not in pictures, where, "have one picture", "several")
                    pictures[stem] = _Place(file, member.offset_data, member.size, member.name)
                elif suffix == "cls" or (suffix == "json" and stem not in classes):
                    require(
                        member.size <= _CLASS_BYTES, where, f"have at most {_CLASS_BYTES} bytes of {suffix}", "more"
                    )
                    content = tar.extractfile(member)
                    label = None if content is None else _label(content.read(), suffix)
                    if label is not None:
                        classes[stem] = label
    except (tarfile.TarError, EOFError) as error:
        rule = "be a readable tar file without compression"
        raise ValueError(f"tar file {str(file)!r} must {rule}, got an error: {error}") from error
    for stem in pictures:
        if stem not in classes:
            rule = f"have a class: a member .cls, or one of {', '.join(_CLASS_KEYS)} in a member .json"
            raise ValueError(f"item {stem!r} of {str(file)!r} must {rule}, got none")
    return [(place, classes[stem]) for stem, place in pictures.items()]


def _label(content: bytes, suffix: str) -> int | str | None:
    """Return a class id or a class name; None if there is none."""
    try:
        if suffix == "json":
            entries = strict_json(content)
            found = [entries[key] for key in _CLASS_KEYS if key in entries] if isinstance(entries, dict) else []
            label = found[0] if found and type(found[0]) in (int, str) else None
        else:
            label = content.decode("utf-8").strip() or None
    except ValueError:  # no JSON, or no text
        return None
    return int(label) if isinstance(label, str) and label.lstrip("-").isdecimal() else label
