"""Pictures that are decoded into a file of the cache folder: equal to those in memory, found again, continued."""

from __future__ import annotations

import json
import logging
import os
from collections import namedtuple

import numpy as np
import pytest
import torch
from PIL import Image

import ddsdk as dd
from ddsdk.cli import main
from ddsdk.data import DiskImages, decoding
from ddsdk.foundation import FolderBusyError, StorageError, lock


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("DDSDK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "pictures"


@pytest.fixture
def photographs(tmp_path):
    """Return a folder of 2 classes with 7 and 5 pictures of 6x9 pixels, the first two of which are grey."""
    rng = np.random.default_rng(0)
    for name, count in (("cat", 7), ("dog", 5)):
        (tmp_path / "photographs" / name).mkdir(parents=True)
        for i in range(count):
            grey = name == "cat" and i < 2
            picture = Image.fromarray(rng.integers(0, 256, (6, 9) if grey else (6, 9, 3), dtype=np.uint8))
            picture.save(tmp_path / "photographs" / name / f"{i}.png")
    return tmp_path / "photographs"


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(decoding, "_CHUNK_BYTES", 3 * 6 * 9 * 3)  # three pictures


def same(disk, memory):
    assert isinstance(disk.stored, DiskImages)
    assert torch.equal(disk.stored[torch.arange(len(disk))], memory.images)
    assert torch.equal(disk.labels, memory.labels)
    assert disk.class_names == memory.class_names
    assert disk.preprocess == memory.preprocess
    assert disk.fingerprint == memory.fingerprint


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("options", [{}, {"resize": (4, 5)}, {"classes": "dog,cat"}], ids=str)
def test_data_on_disk_are_those_in_memory(photographs, cache, workers, options):
    memory = dd.load(photographs, **options)
    same(dd.load(photographs, on_disk=True, workers=workers, **options), memory)
    assert [path.name for path in cache.glob("*/journal.jsonl")] == []


def test_decoded_pictures_are_found_again_until_a_file_changes(photographs, cache, monkeypatch):
    first = dd.load(photographs, on_disk=True)
    with monkeypatch.context() as patch:
        patch.setattr(decoding, "_decode", lambda *_: pytest.fail("decoded again"))
        assert dd.load(photographs, on_disk=True).fingerprint == first.fingerprint
    Image.new("RGB", (9, 6), "red").save(photographs / "dog" / "0.png")
    changed = dd.load(photographs, on_disk=True)
    assert changed.fingerprint != first.fingerprint
    same(changed, dd.load(photographs))
    os.utime(photographs / "dog" / "0.png", ns=(0, 0))
    assert len(list(cache.iterdir())) == 2
    dd.load(photographs, on_disk=True)
    assert len(list(cache.iterdir())) == 3


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("torn", ["", '{"start": 9, "unre'])
def test_an_interrupted_decoding_goes_on(photographs, cache, monkeypatch, torn):
    for grey in (photographs / "cat").glob("[01].png"):
        grey.unlink()  # a change to colour would begin again
    decode_chunk, calls = decoding._decode_chunk, []

    def interrupted(task, start, size):
        calls.append(start)
        if start == 6:
            raise KeyboardInterrupt
        return decode_chunk(task, start, size)

    with monkeypatch.context() as patch:
        patch.setattr(decoding, "_decode_chunk", interrupted)
        with pytest.raises(KeyboardInterrupt):
            dd.load(photographs, on_disk=True)
        (journal,) = cache.glob("*/journal.jsonl")
        with journal.open("a") as file:
            file.write(torn)
        assert not list(cache.glob("*/images.json"))
        with pytest.raises(KeyboardInterrupt):
            dd.load(photographs, on_disk=True)
    assert calls == [0, 3, 6, 6]
    rest = []
    monkeypatch.setattr(decoding, "_decode_chunk", lambda t, start, n: rest.append(start) or decode_chunk(t, start, n))
    same(dd.load(photographs, on_disk=True), dd.load(photographs))
    assert rest == [6, 9]


@pytest.mark.usefixtures("small_chunks")
def test_damaged_pictures_are_named_or_left_out_without_a_second_decoding(photographs, cache, monkeypatch, caplog):
    for damaged in ("cat/6.png", "dog/1.png"):
        (photographs / damaged).write_bytes(b"no picture")
    with pytest.raises(
        ValueError, match=r"got 2 of 12 unreadable: image file .*6\.png.*; image file .*1\.png"
    ) as memory:
        dd.load(photographs)
    with pytest.raises(ValueError, match="2 of 12 unreadable") as disk:
        dd.load(photographs, on_disk=True)
    assert str(disk.value) == str(memory.value)
    monkeypatch.setattr(decoding, "_decode", lambda *_: pytest.fail("decoded again"))
    with caplog.at_level(logging.INFO, "ddsdk"):
        skipped = dd.load(photographs, on_disk=True, skip_unreadable=True)
    assert "2 of 12 pictures" in caplog.text
    same(skipped, dd.load(photographs, skip_unreadable=True))
    for damaged in photographs.glob("*/*"):
        damaged.write_bytes(b"no picture")
    monkeypatch.undo()
    monkeypatch.setenv("DDSDK_CACHE", str(cache.parent))
    with pytest.raises(ValueError, match="12 of 12 unreadable"):
        dd.load(photographs, on_disk=True)
    with pytest.raises(ValueError, match="must hold at least one readable picture"):
        dd.load(photographs, on_disk=True, skip_unreadable=True)


def test_pictures_of_several_sizes_are_refused_and_leave_nothing_large(photographs, cache):
    Image.new("RGB", (3, 3)).save(photographs / "dog" / "4.png")
    with pytest.raises(ValueError, match=r"have one size; .* got 2 sizes .*: 11 of 6x9, 1 of 3x3"):
        dd.load(photographs, on_disk=True)
    assert not list(cache.glob("*/images.u8"))
    same(dd.load(photographs, on_disk=True, resize=5), dd.load(photographs, resize=5))


def test_too_little_disk_space_is_refused_before_anything_is_decoded(photographs, cache, monkeypatch):
    usage = namedtuple("Usage", "free")
    monkeypatch.setattr(decoding.shutil, "disk_usage", lambda _: usage(100))
    with pytest.raises(StorageError, match=r"648 bytes needed .*, 100 bytes free; set DDSDK_CACHE"):
        dd.load(photographs, on_disk=True)
    assert not list(cache.glob("*/images.u8"))


def test_one_process_decodes_at_a_time(photographs, cache, monkeypatch):
    def busy(*_):
        (folder,) = cache.iterdir()
        with lock(folder):
            pass

    from concurrent.futures import ThreadPoolExecutor

    def in_another_thread(*_):
        with ThreadPoolExecutor(1) as pool:
            pool.submit(busy).result()

    monkeypatch.setattr(decoding, "_decode", in_another_thread)
    with pytest.raises(FolderBusyError):
        dd.load(photographs, on_disk=True)


def test_pictures_beyond_half_of_the_memory_are_kept_on_disk(photographs, cache, monkeypatch, caplog):
    size = 12 * 6 * 9  # the first picture is grey
    for memory, on_disk in ((2 * size, False), (2 * size - 1, True)):
        monkeypatch.setattr(decoding, "machine_memory", lambda memory=memory: memory)
        with caplog.at_level(logging.INFO, "ddsdk"):
            assert isinstance(dd.load(photographs).stored, DiskImages) == on_disk
        assert ("more than half of this machine's memory: they are kept on disk" in caplog.text) == on_disk
    assert not isinstance(dd.load(photographs, on_disk=False).stored, DiskImages)


def test_data_without_files_of_pictures_refuse_the_option(tmp_path):
    rule = "on_disk must be left out unless data is a folder, parquet files or tar files"
    for data in ((np.zeros((4, 2, 2)), [0, 1, 0, 1]), "digits", Items()):
        with pytest.raises(ValueError, match=rule):
            dd.load(data, on_disk=True)


class Items:
    """A data set of pictures that are in no files."""

    def __len__(self):
        return 4

    def __getitem__(self, i):
        return Image.new("L", (2, 2)), i % 2


def test_parquet_files_are_decoded_to_disk(tmp_path, photographs, cache):
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    files = sorted(photographs.glob("*/*.png"))
    table = pa.table({"image": [f.read_bytes() for f in files], "label": [f.parent.name for f in files]})
    pq.write_table(table, tmp_path / "photographs.parquet", row_group_size=4)
    same(dd.load(tmp_path / "photographs.parquet", on_disk=True), dd.load(photographs))


def test_the_command_line_decodes_to_disk(photographs, cache, tmp_path):
    small = ["--recipe", "dm", "--steps", "1", "--ipc", "1", "--real-batch", "2", "--width", "2", "--depth", "1"]
    sets = []
    for name, options in (("disk", ["--on-disk", "--workers", "1"]), ("memory", [])):
        out = str(tmp_path / name)
        assert main(["distill", "--data", str(photographs), *small, *options, "--out", out]) == 0
        assert len(list(cache.glob("*/images.u8"))) == 1
        sets.append(dd.Distilled.load(out))
    assert torch.equal(sets[0].images, sets[1].images)


@pytest.mark.parametrize(
    "damage",
    [
        {"shape": [11, 3, 6, 9]},
        {"shape": [12, 3, 6, -9]},
        {"shape": [0, 0, 0, 0]},
        {"unreadable": [[12, "cat/0.png", "torn"]]},
        {"unreadable": [[-1, "cat/0.png", "torn"]]},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["images.json", "journal.jsonl"])
def test_a_damaged_description_is_made_anew(photographs, cache, damage, name):
    whole = dd.load(photographs, on_disk=True)
    (place,) = cache.iterdir()
    described = json.loads((place / "images.json").read_bytes())
    if name == "images.json":
        (place / name).write_text(json.dumps(described | damage))
    else:
        (place / "images.json").unlink()
        chunk = {"start": 0, "sizes": [[6, 9, 12]], "in_colour": True, "reduced": False, "animated": 0}
        lines = [{"shape": described["shape"]}, chunk | {"unreadable": []}]
        lines = [{key: damage.get(key, value) for key, value in line.items()} for line in lines]
        (place / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    same(dd.load(photographs, on_disk=True), dd.load(photographs))
    assert json.loads((place / "images.json").read_bytes()) == described
    assert whole.fingerprint == dd.load(photographs).fingerprint
