"""Links in an output folder that came from elsewhere: no write goes through them."""

from __future__ import annotations

import contextlib
import json
import math
import os

import pytest
import torch
from artefact_sets import make_set
from picture_files import write_folder

import ddsdk as dd
from ddsdk.artefact import to_image_folder, to_npz, to_parquet
from ddsdk.cli import main
from ddsdk.data.decoding import decode_to_disk
from ddsdk.data.folders import read_folder
from ddsdk.data.on_disk import DiskImages
from ddsdk.foundation.errors import ArtifactError, ResumeError, StorageError
from ddsdk.foundation.files import inner_folder, lock, write_atomic
from ddsdk.foundation.store import Store, Timing
from ddsdk.foundation.unit import Unit
from ddsdk.judging import results_folder
from ddsdk.running import write_checkpoint
from ddsdk.students import TrainedRuns, Training

UNIT = Unit("score", {"a": 1})
_HIDDEN = (".ddsdk.lock", ".ddsdk.owner")


def save_twice(folder):
    make_set().save(folder)
    make_set(seed=1).save(folder)


def use_store(folder):
    store = Store(folder)
    store.request([UNIT])
    with store.lease(UNIT.id) as leased:
        assert leased
        store.publish(UNIT, b"result", Timing(1.0, 1.0, "host"))
        store.fail(Unit("score", {"a": 2}), ValueError("no"))


def remember(folder):
    (folder / "images.u8").write_bytes(bytes(24))
    images = DiskImages(folder / "images.u8", (2, 3, 2, 2))
    images.remembered("mean", b"", lambda: [1.0])


def train_networks(folder):
    real = dd.load("digits")
    make = dd.network_factory("mlp", real.image_shape, real.num_classes, width=4)
    list(TrainedRuns(real, make, Training(epochs=1, images=2), count=1, seed=0, folder=folder).make())


def decode(folder):
    source = folder.parent / "pictures"
    if not source.exists():
        write_folder(source)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DDSDK_CACHE", str(folder))
        decode_to_disk(read_folder(source, "train").images)


def distil(folder):
    main(["distill", "--data", "digits", "--recipe", "random", "--ipc", "1", "--out", str(folder)])


def hold_lock(folder):
    with lock(folder):
        pass


def start_job(folder):
    with dd.Job(folder, {"ipc": 1}):
        write_checkpoint(folder / "checkpoint.safetensors", {"ipc": 1}, {"x": torch.ones(3)})


WRITERS = {
    "save": save_twice,
    "job": start_job,
    "store": use_store,
    "lock": hold_lock,
    "npz": lambda folder: to_npz(make_set(), folder / "set.npz"),
    "parquet": lambda folder: to_parquet(make_set(), folder / "set.parquet"),
    "pictures": lambda folder: to_image_folder(make_set(), folder / "pictures"),
    "statistics": remember,
    "networks": train_networks,
    "decoded pictures": decode,
    "file": lambda folder: write_atomic(folder / "report.html", b"page"),
}


def entries(folder):
    return sorted(path.relative_to(folder) for path in folder.rglob("*"))


def victim_of(tmp_path):
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "diary.txt").write_text("precious")
    return victim


def unharmed(victim):
    return entries(victim) == entries(victim)[:1] and (victim / "diary.txt").read_text() == "precious"


@pytest.mark.parametrize("link", ["symbolic", "hard", "to a folder"])
@pytest.mark.parametrize("name", WRITERS)
def test_no_written_file_follows_a_planted_link(tmp_path, name, link):
    (tmp_path / "first").mkdir()
    WRITERS[name](tmp_path / "first")
    written = [path for path in entries(tmp_path / "first") if name != "statistics" or path.name != "images.u8"]
    passing = {str(path.with_name("journal.jsonl")) for path in written if path.name == "images.json"}
    names = {*map(str, written), *_HIDDEN, *passing, f"set-{make_set(seed=1).content_id[:16]}.safetensors"}
    victim = victim_of(tmp_path)
    status = victim.stat().st_mode, (victim / "diary.txt").stat().st_mode
    for i, planted in enumerate(sorted(names)):
        folder = tmp_path / f"gift{i}"
        (folder / planted).parent.mkdir(parents=True)
        if link == "hard":
            os.link(victim / "diary.txt", folder / planted)
        else:
            (folder / planted).symlink_to(victim if link == "to a folder" else victim / "diary.txt")
        with contextlib.suppress(StorageError, ResumeError, ArtifactError, FileExistsError):
            WRITERS[name](folder)
        assert unharmed(victim), planted
        assert (victim.stat().st_mode, (victim / "diary.txt").stat().st_mode) == status, planted


@pytest.mark.parametrize("kind", ["symbolic", "hard"])
def test_an_interrupted_decoding_is_not_continued_through_a_link(tmp_path, kind):
    cache, victim = tmp_path / "cache", victim_of(tmp_path)
    cache.mkdir()
    decode(cache)
    (place,) = (cache / "pictures").iterdir()
    shape = json.loads((place / "images.json").read_bytes())["shape"]
    (victim / "diary.txt").write_bytes(bytes([7]) * math.prod(shape))
    (place / "images.json").unlink()
    (place / "images.u8").unlink()
    (place / "journal.jsonl").write_bytes(json.dumps({"shape": shape}).encode())
    if kind == "hard":
        os.link(victim / "diary.txt", place / "images.u8")
    else:
        (place / "images.u8").symlink_to(victim / "diary.txt")
    with pytest.raises(StorageError, match=r"cannot write .*images.u8'"):
        decode(cache)
    assert set((victim / "diary.txt").read_bytes()) == {7}


def test_the_command_line_does_not_write_through_a_planted_link(tmp_path, capsys):
    victim, gift = victim_of(tmp_path), tmp_path / "gift"
    gift.mkdir()
    (gift / ".ddsdk.owner").symlink_to(victim / "diary.txt")
    distil(gift)
    assert unharmed(victim)
    assert len(dd.Distilled.load(gift)) == 10


def test_an_inner_folder_must_not_be_a_link(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "chosen").symlink_to(tmp_path / "elsewhere")
    assert inner_folder(tmp_path / "chosen", "sets", "dm") == tmp_path / "chosen" / "sets" / "dm"
    (tmp_path / "elsewhere" / "sets").symlink_to(tmp_path)
    with pytest.raises(StorageError, match=r"chosen/sets' must be a folder of its own, not a link.*remove the link"):
        inner_folder(tmp_path / "chosen", "sets", "dm")


def test_scores_beside_a_set_do_not_follow_a_link(tmp_path):
    (tmp_path / "gift-results").symlink_to(tmp_path)
    with pytest.raises(StorageError, match="gift-results' must be a folder of its own"):
        results_folder(tmp_path / "gift")


def test_a_lock_file_with_content_of_another_name_is_refused(tmp_path):
    (tmp_path / "diary.txt").write_text("precious")
    os.link(tmp_path / "diary.txt", tmp_path / ".ddsdk.lock")
    with pytest.raises(StorageError, match=r"cannot lock .*is a link or not a file; remove it"), lock(tmp_path):
        pass


@pytest.mark.parametrize("name", ["set.safetensors", "sheet.png", "README.md", "manifest.json"])
def test_a_file_of_the_user_is_not_overwritten(tmp_path, name):
    (tmp_path / name).write_bytes(b"mine")
    with pytest.raises(StorageError, match=rf"holds {name} that ddsdk has not written; name a new folder"):
        make_set().save(tmp_path)
    with pytest.raises(StorageError, match=rf"holds {name} that ddsdk has not written"), dd.Job(tmp_path, {}):
        pass
    assert (tmp_path / name).read_bytes() == b"mine"


def test_a_first_write_that_was_killed_may_be_repeated(tmp_path):
    make_set().save(tmp_path)
    for name in ("manifest.json", "sheet.png", "README.md"):
        (tmp_path / name).unlink()
    make_set(seed=1).save(tmp_path)
    assert dd.Distilled.load(tmp_path).content_id == make_set(seed=1).content_id
