"""Tar files in the layout of webdataset: pictures, classes, splits, and what is refused."""

from __future__ import annotations

import gzip
import io
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

import ddsdk as dd
from ddsdk.data import DiskImages


def picture(value):
    """Return a grey picture of 4x6 pixels as the bytes of a PNG file, and its pixels."""
    pixels = np.random.default_rng(value).integers(0, 256, (4, 6), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue(), torch.from_numpy(pixels)[None]


def write(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def items(classes, first=0):
    """Return members of a shard with one picture for each class text."""
    members = []
    for i, label in enumerate(classes, first):
        members += [(f"shard/{i:03}.png", picture(i)[0]), (f"shard/{i:03}.cls", label)]
    return members


EXPECTED = torch.stack([picture(i)[1] for i in range(4)])


@pytest.mark.parametrize(
    ("members", "names", "labels"),
    [
        (items([b"0", b"1", b"1\n", b"0"]), ("0", "1"), [0, 1, 1, 0]),
        (items([b"3", b"12", b"12", b"3"]), ("3", "12"), [0, 1, 1, 0]),
        (items([b"dog", b"cat", b"ant", b"dog"]), ("ant", "cat", "dog"), [2, 1, 0, 2]),
        (
            [(f"{i}.png", picture(i)[0]) for i in range(4)]
            + [(f"{i}.json", b'{"width": 6, "label": %d}' % (i % 2)) for i in range(4)],
            ("0", "1"),
            [0, 1, 0, 1],
        ),
    ],
    ids=["ids", "ids with gaps", "names", "json"],
)
def test_pictures_and_classes_of_a_tar_file(tmp_path, members, names, labels):
    extra = [("shard/000.txt", b"a caption"), ("shard/._000.png", b"junk"), ("other.pickle", b"\x80never read")]
    real = dd.load(write(tmp_path / "data.tar", [*extra, *members]))
    assert torch.equal(real.images, EXPECTED)
    assert (real.class_names, real.labels.tolist()) == (names, labels)


def test_the_members_of_an_item_may_lie_apart_and_cls_precedes_json(tmp_path):
    members = items([b"0", b"1", b"1", b"0"])
    mixed = [(f"shard/{i:03}.json", b'{"cls": 1}') for i in range(4)] + members[1::2] + members[::2]
    real = dd.load(write(tmp_path / "data.tar", mixed))
    assert real.labels.tolist() == [0, 1, 1, 0]


def test_shards_have_the_split_in_their_names_and_are_decoded_to_disk(tmp_path, monkeypatch):
    monkeypatch.setenv("DDSDK_CACHE", str(tmp_path / "cache"))
    write(tmp_path / "data" / "train-000.tar", items([b"0", b"1"]))
    write(tmp_path / "data" / "train-001.tar", items([b"1", b"0"], first=2))
    write(tmp_path / "data" / "val-000.tar", items([b"1"], first=7))
    train, test = dd.load_pair(tmp_path / "data", on_disk=True)
    assert isinstance(train.stored, DiskImages)
    assert torch.equal(train.stored[torch.arange(4)], EXPECTED)
    assert torch.equal(test.stored[torch.arange(1)], picture(7)[1][None])
    assert (train.labels.tolist(), test.labels.tolist()) == ([0, 1, 1, 0], [1])


REFUSED = {
    "no class": (
        [*items([b"0"]), ("x.png", picture(9)[0])],
        "item 'x' of .* must have a class: a member .cls, or one of",
    ),
    "an empty class": (items([b"0", b" "]), "item 'shard/001' of .* must have a class"),
    "two pictures": ([*items([b"0"]), ("shard/000.jpg", b"")], "item 'shard/000' of .* must have one picture"),
    "ids and names": (items([b"0", b"cat"]), "must be all numbers or all names, got 'both'"),
    "no pictures": ([("a.cls", b"0")], "must hold items of a picture and its class"),
    "a list in JSON": ([("a.png", picture(0)[0]), ("a.json", b'{"label": [1]}')], "item 'a' of .* must have a class"),
    "a damaged picture": ([*items([b"0"]), ("a.png", b"no"), ("a.cls", b"1")], "member 'a.png' of .*data.tar"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_tar_file_must_hold(tmp_path, name):
    members, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        dd.load(write(tmp_path / "data.tar", members))


def test_compressed_and_damaged_files_are_refused(tmp_path):
    whole = write(tmp_path / "data.tar", items([b"0", b"1"])).read_bytes()
    for content in (gzip.compress(whole), b"no tar file" * 100, b""):
        (tmp_path / "data.tar").write_bytes(content)
        with pytest.raises(ValueError, match=r"must be a readable tar file without compression|no pictures"):
            dd.load(tmp_path / "data.tar")
