"""A run that owns a folder: refused, locked, checkpointed, resumed."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys

import pytest
import torch

import ddsdk as dd
from ddsdk.checkpoint import read_checkpoint
from ddsdk.errors import DivergedError, FolderBusyError, ResumeError
from ddsdk.job import CHECKPOINT

CONFIG = {"recipe": "dm", "steps": 5}
RECIPE = dd.DM(ipc=1, steps=5, real_batch=4)
TRY_TO_ENTER = """
import sys
from ddsdk.errors import FolderBusyError
from ddsdk.job import Job
try:
    with Job(sys.argv[1], {}, resume=True):
        print("entered")
except FolderBusyError as error:
    print("busy", error)
"""


@pytest.fixture
def start(tiny, make_student):
    return lambda: RECIPE.distillation(tiny, make_student=make_student, rng=dd.generator("run"))


@pytest.fixture
def finish(tiny):
    def ready(job, distillation):
        syn = distillation.plan.syn
        found = dd.assemble(
            RECIPE, syn, tiny, evaluation=RECIPE.evaluation(), rng=dd.generator("run"), seconds=job.seconds
        )
        return job.finish(found)

    return ready


def run_through(folder, start, finish, *, resume=False, every=0.0):
    run = start()
    with dd.Job(folder, CONFIG, resume=resume, every=every) as job:
        numbers = [step.number for step in job.steps(run)]
        return numbers, finish(job, run)


def test_a_whole_run_leaves_a_set_and_no_checkpoint(tmp_path, start, finish):
    numbers, content_id = run_through(tmp_path / "a" / "b", start, finish)
    assert numbers == [1, 2, 3, 4, 5]
    assert dd.Distilled.load(tmp_path / "a" / "b").content_id == content_id
    with dd.Job(tmp_path / "a" / "b", CONFIG, resume=True) as job:
        assert job.finished
        assert not (job.folder / CHECKPOINT).exists()


@pytest.mark.parametrize("every", [0.0, 1e9])
@pytest.mark.parametrize("how", ["break", "error"])
def test_a_run_resumes_after_any_step(tmp_path, start, finish, every, how):
    _, straight = run_through(tmp_path / "straight", start, finish)
    for stop in range(1, 6):
        folder = tmp_path / f"stop {stop}"
        job = dd.Job(folder, CONFIG, every=every)
        with job, contextlib.suppress(KeyboardInterrupt):
            for step in (steps := job.steps(start())):
                if step.number == stop and how == "break":
                    break
                if step.number == stop:
                    steps.throw(KeyboardInterrupt)
        del steps
        assert (folder / CHECKPOINT).exists()
        assert job.seconds > 0
        numbers, content_id = run_through(folder, start, finish, resume=True, every=every)
        assert numbers == list(range(stop + 1, 6))
        assert content_id == straight


def test_resuming_with_nothing_to_resume_starts_at_the_beginning(tmp_path, start, finish):
    numbers, _ = run_through(tmp_path, start, finish, resume=True)
    assert numbers == [1, 2, 3, 4, 5]


def test_a_checkpoint_is_there_before_the_first_step(tmp_path, start):
    with dd.Job(tmp_path, CONFIG) as job:
        steps = job.steps(start())
        next(steps)
        steps.close()
    assert (tmp_path / CHECKPOINT).exists()


def test_a_used_folder_is_refused_without_resume(tmp_path, start, finish):
    folder = tmp_path / "run"
    with dd.Job(folder, CONFIG) as job:
        next(job.steps(start()))
    with pytest.raises(ResumeError, match="already holds a run; pass --resume"), dd.Job(folder, CONFIG):
        pass
    run_through(folder, start, finish, resume=True)
    with pytest.raises(ResumeError, match="already holds a run"), dd.Job(folder, CONFIG):
        pass
    # A refusal lets go of the folder.
    with dd.Job(folder, CONFIG, resume=True):
        pass


def test_another_configuration_is_refused(tmp_path, start):
    with dd.Job(tmp_path, CONFIG) as job:
        next(job.steps(start()))
    before = (tmp_path / CHECKPOINT).read_bytes()
    with (
        dd.Job(tmp_path, CONFIG | {"steps": 6}, resume=True) as job,
        pytest.raises(ResumeError, match=r"steps \(was 5, now 6\)"),
    ):
        next(job.steps(start()))
    assert (tmp_path / CHECKPOINT).read_bytes() == before


def test_two_jobs_cannot_share_a_folder(tmp_path):
    command = [sys.executable, "-c", TRY_TO_ENTER, str(tmp_path)]
    with dd.Job(tmp_path, CONFIG):
        second = subprocess.run(command, capture_output=True, text=True, check=True)
    assert second.stdout.startswith("busy")
    assert f"process {os.getpid()}" in second.stdout
    third = subprocess.run(command, capture_output=True, text=True, check=True)
    assert third.stdout.startswith("entered")


def test_a_thread_cannot_enter_twice(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    def enter():
        with dd.Job(tmp_path, CONFIG):
            return "entered"

    with dd.Job(tmp_path, CONFIG), ThreadPoolExecutor(1) as pool, pytest.raises(FolderBusyError):
        pool.submit(enter).result()


def test_what_killed_writers_left_is_swept(tmp_path):
    stale = tmp_path / ".ddsdk-0123456789abcdef.tmp"
    stale.write_bytes(b"half")
    mine = tmp_path / "notes.txt"
    mine.write_text("keep")
    with dd.Job(tmp_path, CONFIG):
        assert not stale.exists()
        assert mine.exists()


def test_a_diverged_run_keeps_its_last_finite_set(tmp_path, tiny, make_student):
    recipe = dd.DM(ipc=1, steps=9, real_batch=4, image_lr=1e30)
    run = recipe.distillation(tiny, make_student=make_student, rng=dd.generator("run"))
    with dd.Job(tmp_path, CONFIG) as job, pytest.raises(DivergedError):
        list(job.steps(run))
    again = recipe.distillation(tiny, make_student=make_student, rng=dd.generator("run"))
    again.load_state_dict(read_checkpoint(tmp_path / CHECKPOINT, CONFIG)["distillation"])
    assert again.plan.syn.is_finite()
    assert torch.equal(again.plan.syn.parametrization.images, run.plan.syn.parametrization.images)
