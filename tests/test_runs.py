"""Trained runs: made once, found again by what they depend on, and never half written."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import struct
import time

import pytest
import torch
from trained_runs import TRAINING, files, made, opener, rows, same

import ddsdk as dd
from ddsdk.foundation import cache_folder
from ddsdk.foundation.errors import DivergedError, StorageError
from ddsdk.students import TrainedRuns, Training


@pytest.fixture
def start(tiny, make_student, tmp_path):
    return opener(tiny, make_student, tmp_path / "runs")


def rewrite(path, change):
    """Change the bytes of a file as a fault would."""
    path.write_bytes(change(path.read_bytes()))


def test_runs_are_made_at_first_use_and_found_again(start):
    runs = start()
    assert not runs.folder.exists()
    assert runs.missing == [0, 1]
    assert runs.seconds == 0
    weights = runs.weights(1, -1)
    assert runs.missing == start().missing == [0]
    progress = list(start().make())
    assert [(p.done, p.total) for p in progress] == [(1, 2), (2, 2)]
    assert start().missing == []
    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in runs.folder.iterdir()}
    assert list(start().make()) == []
    assert torch.equal(start().weights(1, -1), weights)
    assert {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in runs.folder.iterdir()} == before


def test_progress_counts_the_epochs_of_what_is_missing(start):
    assert [(p.done, p.total) for p in start(count=3).make()] == [(i, 6) for i in range(1, 7)]


def test_weights_do_not_depend_on_the_order_in_which_runs_are_made(start, tmp_path):
    straight = rows(made(start()))
    backwards = start(folder=tmp_path / "backwards")
    torch.manual_seed(3)
    for i in (1, 0):
        backwards.weights(i, 0)
    assert same(rows(backwards), straight)
    assert same(rows(start(count=5))[: len(straight)], straight)
    assert {p.name: p.read_bytes()[-64:] for p in backwards.folder.iterdir()} == {
        p.name: p.read_bytes()[-64:] for p in (tmp_path / "runs").iterdir() if p.name in files(backwards)
    }
    assert not torch.equal(straight[0], straight[3])


def test_the_global_seed_is_neither_read_nor_changed(start, tmp_path):
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        found.append(rows(made(start(count=1, folder=tmp_path / str(seed)))))
        assert torch.equal(torch.get_rng_state(), before)
    assert same(*found)


CHANGES = {
    "epochs": 3,
    "lr": 0.04,
    "momentum": 0.0,
    "weight_decay": 0.1,
    "batch_size": 7,
    "augmentation": "",
    "mix": 0.0,
    "per_epoch": 2,
    "thin": 2,
    "half": True,
    "sharpness": 0.1,
    "surrogate": 0.2,
    "images": 3,
    "curvature": 0.5,
    "curvature_step": 1.0,
    "decay_at": (0.5,),
    "decay": 0.5,
}


def test_every_part_of_a_training_is_part_of_the_name(start, tiny, make_student):
    assert set(CHANGES) == {f.name for f in dataclasses.fields(Training)}
    others = [start(count=1, **{name: value}) for name, value in CHANGES.items()]
    others += [
        start(count=1, seed=1),
        start(count=1, real=tiny.subset(torch.arange(len(tiny) - 1))),
        start(count=1, real=tiny.with_preprocess(dd.Preprocess.unit(3))),
        start(count=1, real=tiny.with_preprocess(dd.Preprocess.fit_zca(tiny.images))),
        start(count=1, real=tiny.with_preprocess(dd.Preprocess.fit_zca(tiny.images[:10]))),
        start(count=1, make=dd.network_factory("convnet", tiny.image_shape, 3, width=5, depth=1)),
        start(count=1, make=dd.network_factory("convnet", tiny.image_shape, 3, width=4, depth=1, pooling="max")),
        start(count=1, make=lambda rng: doubled(make_student(rng))),
        start(count=2),
    ]
    for runs in others:
        runs.weights(len(runs) - 1, 0)
    (names,) = [{name for runs in others for name in files(runs)}]
    assert len(names) == len(others)
    assert start(count=1).missing == [0]
    # What makes no difference to the networks makes none to the name.
    tiny.name = "another name"
    assert start(count=2).missing == [0]


def doubled(network):
    """The same layers from another initialisation."""
    with torch.no_grad():
        for p in network.parameters():
            p.mul_(2)
    return network


def set_byte(data, at, value):
    return data[:at] + bytes([value]) + data[at + 1 :]


FAULTS = {
    "empty": lambda data: b"",
    "truncated": lambda data: data[: len(data) // 2],
    "one byte short": lambda data: data[:-1],
    "one byte long": lambda data: data + b"\0",
    "a bit of the weights": lambda data: set_byte(data, len(data) - 9, data[-9] ^ 1),
    "the length of the header": lambda data: set_byte(data, 7, 255),
    "the header": lambda data: set_byte(data, 9, 255),
    "the hash": lambda data: data.replace(b'sha256\\":\\"', b'sha256\\":\\"0', 1),
    "no safetensors": lambda data: b"PK\x03\x04" + data,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_file_is_set_aside_and_that_run_alone_is_made_again(start, fault):
    runs = made(start(count=3))
    straight = rows(runs)
    paths = sorted(runs.folder.iterdir(), key=lambda p: p.stat().st_mtime_ns)
    kept = {p: p.stat().st_mtime_ns for p in paths if p != paths[1]}
    rewrite(paths[1], FAULTS[fault])
    damaged = paths[1].read_bytes()
    again = start(count=3)
    assert again.missing == [1]
    assert paths[1].with_suffix(".bad").read_bytes() == damaged
    assert again.missing == [1]
    assert same(rows(again), straight)
    assert {p: p.stat().st_mtime_ns for p in kept} == kept
    assert len(files(runs)) == 4


def foreign(weights, note):
    """A sound file of safetensors that is none of ours."""
    from safetensors.torch import save

    return save({"weights": weights}, None if note is None else {"ddsdk": note})


@pytest.mark.parametrize(
    "note", [None, "", "5", "[]", "{}", '{"sha256":5,"seconds":1}', '{"sha256":"x","seconds":"y"}']
)
def test_a_foreign_file_is_set_aside(start, note):
    runs = made(start(count=1))
    (path,) = runs.folder.iterdir()
    path.write_bytes(foreign(torch.zeros(3, runs.flat.size), note))
    assert start(count=1).missing == [0]
    assert not path.exists()
    assert path.with_suffix(".bad").exists()


def test_a_file_with_other_rows_is_set_aside(start):
    runs = made(start(count=1))
    (path,) = runs.folder.iterdir()
    other = made(start(count=1, epochs=3))
    (theirs,) = [p for p in other.folder.iterdir() if p != path]
    path.write_bytes(theirs.read_bytes())
    assert start(count=1).missing == [0]


def test_every_bit_of_a_header_may_flip(start, tmp_path):
    """No flip escapes as anything but a file that is set aside, or one that reads the same weights."""
    runs = made(start(count=1, thin=2))
    (path,) = runs.folder.iterdir()
    sound, weights = path.read_bytes(), rows(runs)
    (length,) = struct.unpack("<Q", sound[:8])
    aside = 0
    for at in range(8 + length):
        path.write_bytes(set_byte(sound, at, sound[at] ^ (1 << at % 8)))
        found = start(count=1, thin=2)
        if found.missing:
            aside += 1
        else:
            assert same(rows(found), weights)
    assert aside > length // 2


def test_a_file_that_vanishes_is_made_again(start):
    runs = made(start())
    straight = rows(runs)
    for path in runs.folder.iterdir():
        path.unlink()
    assert runs.missing == [0, 1]
    assert same(rows(runs), straight)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize(("epochs", "per_epoch", "thin"), [(2, 1, 1), (3, 1, 2), (2, 3, 1), (2, 3, 4)])
def test_bytes_are_told_before_they_are_written(start, half, epochs, per_epoch, thin):
    runs = start(epochs=epochs, per_epoch=per_epoch, thin=thin, half=half)
    told = runs.nbytes
    assert runs.training.snapshots == 1 + epochs * per_epoch // thin
    made(runs)
    written = 0
    for path in runs.folder.iterdir():
        data = path.read_bytes()
        (length,) = struct.unpack("<Q", data[:8])
        assert length < 400
        written += len(data) - 8 - length
        assert json.loads(data[8 : 8 + length])["weights"]["dtype"] == ("F16" if half else "F32")
    assert written == told


def test_seconds_are_those_of_the_making_whenever_that_was(start):
    began = time.perf_counter()
    runs = made(start(epochs=5))
    took = time.perf_counter() - began
    assert 0 < runs.seconds < took
    assert start(epochs=5).seconds == runs.seconds
    assert start(epochs=5, count=1).seconds < runs.seconds
    assert start(epochs=5, count=3).seconds == runs.seconds
    assert start(epochs=5, count=3).missing == [2]


@pytest.mark.parametrize("changes", [{"lr": 1e30}, {"lr": 1e4, "half": True, "epochs": 1}])
def test_a_run_that_diverges_raises_and_leaves_no_file(start, changes):
    runs = start(count=1, augmentation="", mix=0.0, **changes)
    with pytest.raises(DivergedError, match=r"weights of trained run 0 are not finite; lower its lr of 1") as e:
        list(runs.make())
    assert e.value.syn is None
    assert files(runs) == []
    assert runs.missing == [0]


def test_a_folder_that_cannot_be_made_is_a_storage_error_before_any_training(start, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    trained = []
    monkeypatch.setattr("ddsdk.students.runs.gradient_step", lambda *_: trained.append(1))
    for folder in (tmp_path / "file", tmp_path / "file" / "deep"):
        runs = start(folder=folder)
        with pytest.raises(StorageError, match="cannot make folder"):
            list(runs.make())
        with pytest.raises(StorageError, match="cannot make folder"):
            runs.weights(0, 0)
    assert not trained


def test_a_disk_that_is_full_is_a_storage_error_and_leaves_nothing(start, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    runs = start()
    with monkeypatch.context() as patch:
        patch.setattr("os.write", full)
        with pytest.raises(StorageError, match="No space left on device"):
            list(runs.make())
    assert files(runs) == []
    assert len(rows(runs)) == 6


@pytest.mark.parametrize("moment", ["training", "writing", "renaming"])
def test_a_kill_leaves_no_half_file(start, moment, monkeypatch):
    straight = rows(made(start(count=1, epochs=3, folder=None)))
    runs = start(count=1, epochs=3, seed=0)
    (path,) = runs.folder.iterdir()
    path.unlink()
    pid = os.fork()
    if pid == 0:  # the child dies in the middle of its work, as by kill -9
        try:
            if moment == "training":
                next(start(count=1, epochs=3).make())
                os.kill(os.getpid(), signal.SIGKILL)
            if moment == "writing":
                write = os.write
                os.write = lambda handle, data: (write(handle, bytes(data)[:100]), os.kill(os.getpid(), signal.SIGKILL))
            else:
                os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
            list(start(count=1, epochs=3).make())
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    assert not path.exists()
    again = start(count=1, epochs=3)
    assert again.missing == [0]
    assert same(rows(again), straight)
    # The temporary file of the dead goes as soon as it is old.
    left = [p for p in runs.folder.iterdir() if p != path]
    assert len(left) == (0 if moment == "training" else 1)
    for p in left:
        os.utime(p, (0, 0))
    made(start(count=2, epochs=3))
    assert not any(p.exists() for p in left)
    assert len(files(runs)) == 2


def test_a_run_that_is_broken_off_is_made_whole_later(start):
    runs = start(count=1, epochs=3)
    going = runs.make()
    next(going)
    going.close()
    assert files(runs) == []
    assert len(rows(runs)) == 4


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("DDSDK_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    monkeypatch.delenv("DDSDK_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "ddsdk"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "ddsdk"


def test_runs_go_to_the_cache_where_no_folder_is_given(tiny, make_student, tmp_path, monkeypatch):
    monkeypatch.setenv("DDSDK_CACHE", str(tmp_path / "own"))
    runs = TrainedRuns(tiny, make_student, TRAINING, count=1, seed=0)
    runs.weights(0, 0)
    assert len(files(runs)) == 1
    assert runs.folder == tmp_path / "own"


def test_refusals(start):
    for options, message in (
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"per_epoch": 0}, "per_epoch must be at least 1, got 0"),
        ({"thin": 0}, "thin must be at least 1, got 0"),
        ({"thin": 1.5}, "thin must be an integer, got 1.5"),
        ({"thin": 3}, "thin must not exceed the 2 snapshots of a run, got 3"),
        ({"images": 0}, "images must be at least 1, got 0"),
        ({"lr": 0.0}, "lr must be positive and finite, got 0.0"),
        ({"momentum": 1.0}, "momentum must lie in 0 <= value < 1, got 1.0"),
        ({"weight_decay": -1.0}, "weight_decay must be finite and not negative, got -1.0"),
        ({"sharpness": float("nan")}, "sharpness must be finite and not negative, got nan"),
        ({"surrogate": float("inf")}, "surrogate must be finite and not negative, got inf"),
        ({"mix": -0.1}, r"mix must lie in 0\.\.1, got -0.1"),
        ({"mix": 1.1}, r"mix must lie in 0\.\.1, got 1.1"),
        ({"augmentation": "flop"}, "did you mean 'flip'"),
    ):
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(TRAINING, **options)
    with pytest.raises(ValueError, match="count must be at least 1, got 0"):
        start(count=0)
    with pytest.raises(ValueError, match="per_epoch must not exceed the 20 images of a run, got 21"):
        start(per_epoch=21)
    with pytest.raises(ValueError, match="per_epoch must not exceed the 6 images of a run, got 7"):
        start(per_epoch=7, images=2)
    runs = start()
    for snapshot in (3, -4):
        with pytest.raises(ValueError, match=rf"snapshot must lie in -3\.\.2, got {snapshot}"):
            runs.weights(0, snapshot)
    for run in (2, -1):
        with pytest.raises(ValueError, match=rf"run must lie in 0\.\.1, got {run}"):
            runs.weights(run, 0)
    assert not runs.folder.exists()
