"""Readers of folders: raw MNIST files, image folders, decoded pictures, stores of units and trained networks."""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import PurePosixPath

import atheris
from inputs import FOLDER, empty, refused_or, refusing
from PIL import Image

with atheris.instrument_imports(include=["ddsdk", "torchvision.datasets.mnist"]):
    import torch
    from torchvision.datasets import MNIST

    import ddsdk as dd
    from ddsdk.data.decoding import decode_to_disk
    from ddsdk.data.folders import read_folder
    from ddsdk.foundation.store import Store
    from ddsdk.foundation.unit import Unit, seal_result
    from ddsdk.judging import read_scores
    from ddsdk.students import TrainedRuns, Training

torch.set_num_threads(1)
os.environ["DDSDK_CACHE"] = str(FOLDER / "cache")


def picture():
    """Return a grey PNG of 2 x 2 pixels, for entries of a tree that have no content of their own."""
    target = io.BytesIO()
    Image.frombytes("L", (2, 2), b"\0\1\2\3").save(target, "PNG")
    return target.getvalue()


PICTURE = picture()


def split(data):
    """Return two parts of the fuzzer's bytes; the first two bytes are the length of the first part."""
    length = int.from_bytes(data[:2], "big")
    return data[2 : 2 + length], data[2 + length :]


def idx(data):
    """The files of MNIST: images and labels, the same for both splits."""
    raw = empty("idx") / MNIST.__name__ / "raw"
    raw.mkdir(parents=True)
    images, labels = split(data)
    for kind in ("train", "t10k"):
        (raw / f"{kind}-images-idx3-ubyte").write_bytes(images)
        (raw / f"{kind}-labels-idx1-ubyte").write_bytes(labels)
    refused_or(lambda: dd.load_pair("mnist", root=FOLDER / "idx"))


def inner(name):
    """Return a path that stays below a folder, or None."""
    parts = name.decode("utf-8", "surrogateescape").replace("\0", "").split("/")
    parts = [part for part in parts if part not in ("", ".", "..")]
    return PurePosixPath(*parts) if parts else None


def entries(data):
    """Yield kind, name and content of the entries of a tree.

    An entry is a byte with its kind and the length of its name, the name, a byte with the length of the content, and
    the content.
    """
    while len(data) > 2:
        kind, length = data[0] >> 5, data[0] & 31
        name, data = data[1 : 1 + length], data[1 + length :]
        size, data = (data[0], data[1:]) if data else (0, b"")
        content, data = data[:size], data[size:]
        if inner(name):
            yield kind, inner(name), content


def make_entry(root, kind, name, content):
    """Make an entry of a tree; its links lead to other entries."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if os.path.lexists(path) or not path.parent.resolve().is_relative_to(root.resolve()):
        return
    if kind == 5:
        path.mkdir()
    elif kind == 6:
        path.symlink_to(root / (inner(content) or "a"))
    elif kind == 7:
        os.mkfifo(path)
    else:
        path.write_bytes(content or PICTURE)


def tree(data):
    """An image folder of files, pipes, links and folders."""
    root = empty("tree")
    for entry in entries(data):
        with contextlib.suppress(OSError, ValueError):
            make_entry(root, *entry)
    resize = (None, 2, (3, 2))[len(data) % 3]
    for part in ("train", "test"):
        refused_or(lambda part=part: dd.load(str(root), split=part, resize=resize, skip_unreadable=len(data) % 2 == 0))


def pictures():
    """Return three pictures in a folder whose times do not change, so that their place in the cache stays the same."""
    root = FOLDER / "pictures-of-three"
    if not root.exists():
        for i, name in enumerate("aab"):
            (root / name).mkdir(parents=True, exist_ok=True)
            (root / name / f"{i}.png").write_bytes(PICTURE)
    return read_folder(root, "train").images


def decoded(data):
    """The folder of decoded pictures: description or journal, and the file of the images with any number of bytes."""
    images, place = pictures(), FOLDER / "cache" / "pictures"
    for file in place.glob("*/*"):
        if file.name != "images.u8":
            file.unlink()
    done, _ = decode_to_disk(images)
    if data[:1] == b"\1":
        (done.path.parent / "images.json").unlink()
    (done.path.parent / ("journal.jsonl" if data[:1] == b"\1" else "images.json")).write_bytes(data[2:])
    if len(data) > 1 and data[1] < 64:
        done.path.write_bytes(bytes(data[1]))
    result = refusing(lambda: refused_or(lambda: decode_to_disk(images, skip_unreadable=True)))
    if result is not None:
        found, index = result
        assert len(found) == len(index) <= 3
        assert found[:].shape == (len(found), 1, 2, 2)


def store(data):
    """A store of units: a score with a sound seal around any conditions and any record, and any small records."""
    home = Store(empty("store"))
    home.make()
    conditions, result = split(data)
    try:
        unit = Unit("score", dd.foundation.strict_json(conditions), ("name",))
        sealed = seal_result(unit, result)
    except (ValueError, TypeError):
        unit, sealed = Unit("score", {}), data
    home.path(unit.id).write_bytes(sealed)
    for name in ("asked", "times", "failed"):
        (home.folder / name / f"{unit.id}.json").write_bytes(result)
    read_scores(home.folder)
    home.requested(), home.timing(unit.id), home.failure(unit.id), home.read(unit.id)
    home.path(unit.id).unlink(missing_ok=True)
    home.failure(unit.id)


def trained():
    real = dd.RealData(
        torch.zeros(4, 1, 2, 2, dtype=torch.uint8),
        torch.arange(4) % 2,
        class_names=("a", "b"),
        preprocess=dd.Preprocess.unit(1),
        name="fuzz",
    )
    make = dd.network_factory("mlp", real.image_shape, 2, width=2)
    return TrainedRuns(real, make, Training(epochs=1), count=1, seed=0, folder=FOLDER / "runs")


RUNS = []


def runs(data):
    """The file of a trained network: any bytes count as missing, and are set aside."""
    if not RUNS:
        RUNS.append(trained())
    stored = RUNS[0]
    empty("runs")
    stored._intact.clear()
    stored._path(0).write_bytes(data)
    missing = stored.missing
    if not missing:
        stored.weights(0, 0), stored.seconds, stored.cpu_seconds
