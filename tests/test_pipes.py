"""Named pipes in folders that are read: opening one would wait for its writer for ever."""

from __future__ import annotations

import os

import pytest
from picture_files import PIXELS
from PIL import Image
from quick_units import echo

import ddsdk as dd
from ddsdk.foundation import Store

pytestmark = pytest.mark.timeout(60)

PIPES = {
    "annotations": ("a/x.json", {}),
    "boxes": ("a/0.txt", {}),
    "picture": ("a/pipe.png", {}),
    "table": ("data.parquet", {}),
    "texts": ("texts.csv", {"text_column": "text"}),
    "arrays": ("images.npy", {}),
    "archive": ("data.tar", {}),
}


@pytest.mark.parametrize("kind", PIPES)
def test_a_pipe_among_the_files_of_data_is_left_alone(tmp_path, kind):
    name, options = PIPES[kind]
    for label in "ab":
        (tmp_path / label).mkdir()
        Image.fromarray(PIXELS[ord(label) - 97]).save(tmp_path / label / "0.png")
    os.mkfifo(tmp_path / name)
    if options:
        with pytest.raises(ValueError, match="text_column must be left out unless data is a table"):
            dd.load(tmp_path, **options)
    assert len(dd.load(tmp_path)) == 2


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_link_without_its_target_is_named_and_not_left_out(tmp_path, suffix):
    whole, missing = tmp_path / f"train-00000-of-00002{suffix}", tmp_path / f"train-00001-of-00002{suffix}"
    whole.write_text("text,label\na good one,pos\na bad one,neg\n")
    missing.symlink_to(tmp_path / "blobs" / "gone")
    with pytest.raises((OSError, ValueError), match="train-0000"):
        dd.load(tmp_path, split="train", **({"text_column": "text"} if suffix == ".csv" else {}))


def test_a_pipe_in_a_store_counts_as_empty(tmp_path):
    store, unit = Store(tmp_path), echo("a")
    store.make()
    for path in ("asked/x.json", f"results/{unit.id}.unit", f"times/{unit.id}.json", f"failed/{unit.id}.json"):
        os.mkfifo(tmp_path / path)
    os.mkfifo(tmp_path / "leases" / ("0" * 32))
    assert store.requested() == []
    assert list(store.results("echo")) == []
    assert (store.timing(unit.id), store.failure(unit.id), store.read(unit.id)) == (None, None, None)
    assert store.release(os.getpid()) == []
    with store.lease("0" * 32) as mine:
        assert not mine
