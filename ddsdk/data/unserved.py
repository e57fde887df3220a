"""Refusal of data sets that are recognised as object detection, segmentation, multi-label data or video."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from ddsdk.data.splits import is_special

_VIDEOS = {".mp4", ".avi", ".mov", ".mkv", ".webm", ".mpg", ".mpeg", ".m4v", ".wmv"}
_LOOKED_AT = 50
"""Number of files of a folder that are looked at."""

_LARGEST_JSON = 2**20


def refuse_unserved(folder: Path) -> None:
    """Check that a folder does not hold the files of a task that is not supported.

    Args:
        folder: Folder of a data set, whose first files and whose subfolders' first files are looked at.

    Raises:
        ValueError: If it holds videos, masks, or annotations of boxes.
    """
    kind = _detection(folder) or _video(folder)
    if kind is not None:
        rule = "hold pictures with one class each, in one subfolder for each class"
        raise ValueError(f"folder {str(folder)!r} must {rule}; {kind} not supported")


def _detection(folder: Path) -> str | None:
    names = {path.name.casefold(): path for path in folder.iterdir() if path.is_dir()}
    if "annotations" in names and any(_few(names["annotations"], "*.xml")):
        return "object detection and segmentation with VOC annotations (Annotations/*.xml) are"
    for masks in ("masks", "segmentationclass"):
        if masks in names:
            return f"segmentation with masks ({names[masks].name}/) is"
    if {"images", "labels"} <= names.keys() and any(_boxes(path) for path in _few(names["labels"], "*.txt", "*/*.txt")):
        return "object detection with boxes in text files (YOLO) is"
    places = [folder, *names.values()]
    if any(_boxes(path) for place in places for path in _few(place, "*.txt") if _has_picture(path)):
        return "object detection with boxes in text files (YOLO) is"
    if any(_is_coco(path) for place in places for path in _few(place, "*.json")):
        return "object detection and segmentation with annotations in JSON (COCO) are"
    return None


def _video(folder: Path) -> str | None:
    for place in [folder, *(path for path in folder.iterdir() if path.is_dir())]:
        for path in _few(place, "*"):
            if path.suffix.casefold() in _VIDEOS:
                return f"video ({path.name}) is"
    return None


def _few(folder: Path, *patterns: str) -> Iterator[Path]:
    for pattern in patterns:
        # Opening a pipe would wait for its writer.
        yield from islice((path for path in folder.glob(pattern) if not is_special(path)), _LOOKED_AT)


def _has_picture(path: Path) -> bool:
    return any(path.with_suffix(suffix).is_file() for suffix in (".jpg", ".jpeg", ".png"))


def _boxes(path: Path) -> bool:
    try:
        with path.open(errors="replace") as file:
            words = file.readline(1000).split()
        return len(words) >= 5 and all(0 <= float(word) <= 1 for word in words[1:5])
    except (OSError, ValueError):
        return False


def _is_coco(path: Path) -> bool:
    try:
        with path.open(errors="replace") as file:
            head = file.read(_LARGEST_JSON)
    except OSError:
        return False
    # A large file is not parsed: its first megabyte shows the key.
    if len(head) == _LARGEST_JSON:
        return '"images"' in head or '"annotations"' in head
    try:
        content = json.loads(head)
    except ValueError:
        return False
    return isinstance(content, dict) and {"images", "annotations"} <= content.keys()
