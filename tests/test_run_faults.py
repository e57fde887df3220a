"""Faults that a run survives, each as a whole: kills within a write, a full disk, damaged files, other clocks."""

from __future__ import annotations

import dataclasses
import errno
import logging
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from test_house import EVERY_FILE
from tiny_recipes import RECIPE_SETTINGS

import ddsdk as dd
from ddsdk.foundation import (
    DivergedError,
    FolderBusyError,
    ResumeError,
    StorageError,
    Store,
    lock,
    remove_stale_files,
    write_atomic,
)
from ddsdk.running import Run, read_checkpoint, write_checkpoint
from ddsdk.running.job import CHECKPOINT
from ddsdk.training import TrainingProtocol

CONFIG = {"recipe": "dm"}
KILLED = """
import os, sys
from pathlib import Path
from ddsdk.foundation.files import write_atomic
calls = 0
def dying(real):
    def call(*args, **options):
        global calls
        calls += 1
        if calls == n:
            os._exit(9)
        return real(*args, **options)
    return call
for n in range(1, 99):
    folder = Path(sys.argv[1]) / str(n)
    folder.mkdir()
    write_atomic(folder / "c", b"first")
    write_atomic(folder / "c", b"second", previous=folder / "p")
    pid = os.fork()
    if pid == 0:
        for name in ("open", "write", "fsync", "replace"):
            setattr(os, name, dying(getattr(os, name)))
        write_atomic(folder / "c", b"third", previous=folder / "p")
        os._exit(0)
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0:
        break
print(n)
"""


def test_a_kill_at_every_call_of_a_write_leaves_one_of_the_two_files_before_it(tmp_path):
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], capture_output=True, text=True, check=True)
    last, seen = int(done.stdout), []
    for n in range(1, last + 1):
        folder = tmp_path / f"{n}"
        seen.append(tuple(p.read_bytes() if p.exists() else None for p in (folder / "c", folder / "p")))
        remove_stale_files(folder, older_than=0)
        assert {p.name for p in folder.iterdir()} <= {"c", "p"}
    before, between, after = (b"second", b"first"), (None, b"second"), (b"third", b"second")
    assert list(dict.fromkeys(seen)) == [before, between, after]
    assert last > 6


def test_a_disk_that_fills_up_ends_a_run_that_goes_on_later(tmp_path, tiny, make_student, monkeypatch):
    def start():
        return Run(dd.DM(ipc=1, steps=5, real_batch=4), tiny, make_student=make_student, seed=dd.generator("run"))

    straight = start()
    for _ in straight:
        pass
    folder, run, real = tmp_path / "run", start(), os.write

    def full(handle, data):
        real(handle, bytes(data)[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    with dd.Job(folder, CONFIG, every=0) as job, pytest.raises(StorageError) as error:
        for step in job.steps(run):
            if step.number == 3:
                monkeypatch.setattr(os, "write", full)
    monkeypatch.undo()
    for part in ("No space left on device", "bytes needed", "bytes free", "the old file is unchanged"):
        assert part in str(error.value)
    assert not [path for path in folder.iterdir() if path.name.endswith(".tmp")]
    assert read_checkpoint(folder / CHECKPOINT, CONFIG)["distillation"]["index"] == 3
    again = start()
    with dd.Job(folder, CONFIG, resume=True) as job:
        assert [step.number for step in job.steps(again)] == [4, 5]
        job.finish(again.distilled())
    assert dd.Distilled.load(folder).content_id == straight.distilled().content_id


def test_one_damaged_expert_is_trained_again_and_the_set_stays_the_same(tmp_path, tiny, monkeypatch, caplog):
    monkeypatch.setenv("DDSDK_CACHE", str(tmp_path))
    recipe = dd.RECIPES["mtt"](ipc=1, **RECIPE_SETTINGS["mtt"] | {"experts": 5})
    make_student = dd.network_factory("mlp", tiny.image_shape, tiny.num_classes, width=4)
    first = dd.distill(recipe, tiny, make_student=make_student, seed=0)
    experts = sorted(tmp_path.glob("run-*.safetensors"))
    assert len(experts) == 5
    times = {path: path.stat().st_mtime_ns for path in experts}
    whole = experts[2].read_bytes()
    experts[2].write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with caplog.at_level(logging.INFO, "ddsdk"):
        again = dd.distill(recipe, tiny, make_student=make_student, seed=0)
    assert again.content_id == first.content_id
    assert f"{experts[2].name}' is damaged and now ends in .bad" in caplog.text
    assert {path for path in experts if path.stat().st_mtime_ns != times[path]} == {experts[2]}


@pytest.mark.parametrize(("key", "student_lr"), [("dd", 1e4), ("rat-bptt", 1e4), ("mtt", 0.5), ("mtt", 1e12)])
def test_an_inner_loop_that_blows_up_leaves_a_finite_set(tiny, make_student, key, student_lr):
    """The training of the students diverges at this learning rate, and the gradient by the images with it."""
    recipe = dd.RECIPES[key](ipc=1, **RECIPE_SETTINGS[key] | {"student_lr": student_lr, "steps": 4})
    run = Run(recipe, tiny, make_student=make_student, seed=0)
    for _ in run.prepare():
        pass
    try:
        for step in run:
            assert step.syn.is_finite()
    except DivergedError as error:
        assert error.syn.is_finite()
    assert torch.isfinite(run.distilled().images).all()


def test_an_infinite_gradient_of_a_finite_loss_is_undone(tiny, make_student):
    class Spike:
        calls = 0

        def __call__(self, student, real, syn, rng):
            self.calls += 1
            x, _ = syn.mixed(99, rng)
            # The root has an infinite slope at 0.
            yield x.square().mean() + ((x - x.detach()).abs().sqrt().sum() if self.calls == 3 else 0)

    recipe = dd.DM(ipc=1, steps=5, real_batch=4)
    plan = recipe.plan(tiny, make_student=make_student, rng=dd.generator("plan"))
    run = dd.Distillation(dataclasses.replace(plan, objective=Spike()), tiny, rng=dd.generator("run"))
    for step in run:
        assert step.syn.is_finite()
    assert (run.index, run.rate_reductions) == (5, 1)


@pytest.mark.parametrize("name", [1, 3, "2", None])
def test_a_checkpoint_of_another_format_is_refused_by_its_number(tmp_path, name, monkeypatch):
    monkeypatch.setattr("ddsdk.running.checkpoint._FORMAT", name)
    write_checkpoint(tmp_path / "c", CONFIG, {"x": 1})
    monkeypatch.undo()
    with pytest.raises(ResumeError, match=rf"its format is {name}, and this version of ddsdk reads format 2"):
        read_checkpoint(tmp_path / "c", CONFIG)


def test_a_lease_does_not_lapse_by_the_clock_of_this_machine(tmp_path, monkeypatch):
    store, late = Store(tmp_path / "store"), time.time() + 36000
    store.make()
    (store.folder / "leases" / ("0" * 32)).write_text("1 elsewhere")
    monkeypatch.setattr(time, "time", lambda: late)
    with store.lease("0" * 32) as mine:
        assert not mine


@pytest.mark.filterwarnings("ignore:flock not supported")
def test_a_file_system_without_locks_keeps_files_whole(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def missing(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", missing)
    write_atomic(tmp_path / "a", b"new")
    (tmp_path / ".ddsdk-0123456789abcdef.tmp").write_bytes(b"half")
    assert remove_stale_files(tmp_path) == []
    assert (tmp_path / "a").read_bytes() == b"new"
    with lock(tmp_path), ThreadPoolExecutor(1) as pool, pytest.raises(FolderBusyError):
        pool.submit(lambda: lock(tmp_path).__enter__()).result()


def test_the_tests_that_the_docs_name_are_there():
    page = (Path(__file__).parent.parent / "docs" / "reliability.md").read_text()
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", page)
    assert len(named) > 50
    for file, name in named:
        assert f"\ndef {name}(" in (Path(__file__).parent / file).read_text(), f"{file}::{name}"


def test_unknown_settings_of_a_protocol_are_refused():
    with pytest.raises(ValueError, match="__import__"):
        TrainingProtocol.from_dict({**TrainingProtocol().to_dict(), "__import__": "os"})


def test_no_file_is_read_as_yaml():
    """Aliases in YAML make gigabytes of a kilobyte; settings are JSON or options of the command line."""
    for path in EVERY_FILE:
        assert not re.search(r"^\s*(?:import|from) (?:yaml|ruamel)", path.read_text(), re.MULTILINE), path
