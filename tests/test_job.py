"""A run that owns a folder: refused, locked, checkpointed, resumed."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys

import pytest
import torch

import ddsdk as dd
from ddsdk.foundation.errors import DivergedError, FolderBusyError, ResumeError, StorageError
from ddsdk.running.checkpoint import read_checkpoint
from ddsdk.running.job import CHECKPOINT
from ddsdk.running.run import Run

CONFIG = {"recipe": "dm", "steps": 5}
RECIPE = dd.DM(ipc=1, steps=5, real_batch=4)
TRY_TO_ENTER = """
import sys
from ddsdk.foundation.errors import FolderBusyError
from ddsdk.running.job import Job
try:
    with Job(sys.argv[1], {}, resume=True):
        print("entered")
except FolderBusyError as error:
    print("busy", error)
"""


@pytest.fixture
def start(tiny, make_student):
    return lambda: Run(RECIPE, tiny, make_student=make_student, seed=dd.generator("run"))


def run_through(folder, start, *, resume=False, every=0.0):
    run = start()
    with dd.Job(folder, CONFIG, resume=resume, every=every) as job:
        numbers = [step.number for step in job.steps(run)]
        return numbers, job.finish(run.distilled())


def test_a_whole_run_leaves_a_set_and_no_checkpoint(tmp_path, start):
    numbers, content_id = run_through(tmp_path / "a" / "b", start)
    assert numbers == [1, 2, 3, 4, 5]
    assert dd.Distilled.load(tmp_path / "a" / "b").content_id == content_id
    with dd.Job(tmp_path / "a" / "b", CONFIG, resume=True) as job:
        assert job.finished
        assert not (job.folder / CHECKPOINT).exists()


@pytest.mark.parametrize("every", [0.0, 1e9])
@pytest.mark.parametrize("how", ["break", "error"])
def test_a_run_resumes_after_any_step(tmp_path, start, every, how):
    _, straight = run_through(tmp_path / "straight", start)
    for stop in range(1, 6):
        folder, run = tmp_path / f"stop {stop}", start()
        job = dd.Job(folder, CONFIG, every=every)
        with job, contextlib.suppress(KeyboardInterrupt):
            for step in (steps := job.steps(run)):
                if step.number == stop and how == "break":
                    break
                if step.number == stop:
                    steps.throw(KeyboardInterrupt)
        del steps
        assert read_checkpoint(folder / CHECKPOINT, CONFIG)["seconds"] == run.seconds > 0
        numbers, content_id = run_through(folder, start, resume=True, every=every)
        assert numbers == list(range(stop + 1, 6))
        assert content_id == straight


@pytest.mark.parametrize("fault", ["flipped", "missing"])
def test_a_run_resumes_from_the_checkpoint_before_a_damaged_one(tmp_path, start, fault):
    _, straight = run_through(tmp_path / "straight", start)
    folder = tmp_path / "damaged"
    with dd.Job(folder, CONFIG, every=0.0) as job:
        for step in job.steps(start()):
            if step.number == 4:
                break
    path = folder / CHECKPOINT
    whole = path.read_bytes()
    path.unlink()
    if fault == "flipped":
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ResumeError, match="already holds a run"), dd.Job(folder, CONFIG):
        pass
    with dd.Job(folder, CONFIG, resume=True) as job:
        assert job.steps_taken == 4
    assert run_through(folder, start, resume=True) == ([5], straight)
    assert not [path.name for path in folder.iterdir() if path.name.startswith("checkpoint")]


def test_a_job_knows_what_it_goes_on_from(tmp_path, start):
    with dd.Job(tmp_path, CONFIG, resume=True) as job:
        assert not job.resumes
        assert job.steps_taken == 0
        for step in job.steps(start()):
            if step.number == 3:
                break
    with dd.Job(tmp_path, CONFIG, resume=True) as job:
        assert job.resumes
        assert job.steps_taken == 3
        # What was done since counts, and not what was found on entering.
        assert next(job.steps(start())).number == 4
        assert next(job.steps(start())).number == 5


@pytest.mark.parametrize("name", ["README.md", "manifest.json"])
@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_of_something_else_is_refused_before_any_work(tmp_path, name, resume):
    (tmp_path / name).write_text("notes")
    with pytest.raises(StorageError, match="that ddsdk has not written"), dd.Job(tmp_path, CONFIG, resume=resume):
        pass
    assert sorted(p.name for p in tmp_path.iterdir() if p.suffix in (".md", ".json")) == [name]


def test_a_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    for folder in (tmp_path / "file", tmp_path / "file" / "in it"):
        with pytest.raises(StorageError, match="cannot make folder"), dd.Job(folder, CONFIG):
            pass


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_error_within_a_step_leaves_a_sound_checkpoint(tmp_path, start, error):
    _, straight = run_through(tmp_path / "straight", start)
    run, folder = start(), tmp_path / "broken"
    optimizer = run.distillation._optimizer
    step, calls = optimizer.step, []

    def interrupted():
        step()
        calls.append(1)
        if len(calls) == 3:
            raise error

    optimizer.step = interrupted
    with dd.Job(folder, CONFIG) as job, pytest.raises(error):
        list(job.steps(run))
    numbers, content_id = run_through(folder, start, resume=True)
    assert numbers == [3, 4, 5]
    assert content_id == straight


def test_resuming_with_nothing_to_resume_starts_at_the_beginning(tmp_path, start):
    numbers, _ = run_through(tmp_path, start, resume=True)
    assert numbers == [1, 2, 3, 4, 5]


def test_a_checkpoint_is_there_before_the_first_step(tmp_path, start):
    with dd.Job(tmp_path, CONFIG) as job:
        steps = job.steps(start())
        next(steps)
        steps.close()
    assert (tmp_path / CHECKPOINT).exists()


def test_a_used_folder_is_refused_without_resume(tmp_path, start):
    folder = tmp_path / "run"
    with dd.Job(folder, CONFIG) as job:
        next(job.steps(start()))
    with pytest.raises(ResumeError, match="already holds a run; pass --resume"), dd.Job(folder, CONFIG):
        pass
    run_through(folder, start, resume=True)
    with pytest.raises(ResumeError, match="already holds a run"), dd.Job(folder, CONFIG):
        pass
    # A refusal lets go of the folder.
    with dd.Job(folder, CONFIG, resume=True):
        pass


def test_another_configuration_is_refused(tmp_path, start):
    with dd.Job(tmp_path, CONFIG) as job:
        next(job.steps(start()))
    before = (tmp_path / CHECKPOINT).read_bytes()
    other = dd.Job(tmp_path, CONFIG | {"steps": 6}, resume=True)
    with pytest.raises(ResumeError, match=r"steps \(was 5, now 6\)"), other:
        pass
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
    run = Run(recipe, tiny, make_student=make_student)
    with dd.Job(tmp_path, CONFIG) as job, pytest.raises(DivergedError):
        list(job.steps(run))
    again = Run(recipe, tiny, make_student=make_student)
    again.load_state_dict(read_checkpoint(tmp_path / CHECKPOINT, CONFIG))
    mine, kept = (r.distillation.plan.syn for r in (run, again))
    assert kept.is_finite()
    assert torch.equal(kept.parametrization.images, mine.parametrization.images)


def test_the_set_of_a_diverged_run_says_so(tmp_path, tiny, make_student):
    recipe = dd.DM(ipc=1, steps=9, real_batch=4, image_lr=1e30)
    run = Run(recipe, tiny, make_student=make_student)
    with dd.Job(tmp_path, CONFIG) as job:
        with pytest.raises(DivergedError) as error:
            list(job.steps(run))
        assert error.value.syn is run.distillation.plan.syn
        job.finish(run.distilled())
    about = dd.Distilled.load(tmp_path).provenance
    assert about["diverged"] is True
    assert about["rate_reductions"] == 5
    assert about["steps_done"] == run.distillation.index
    with dd.Job(tmp_path, CONFIG, resume=True) as job:
        assert job.finished
        assert job.diverged
