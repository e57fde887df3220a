"""One step shared by several processes is the step of one, but for rounding."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

import ddsdk as dd
from ddsdk.running import ProcessSum, shared_plan

ROOT = Path(__file__).parent.parent
STEPS = 4


def whole_plan(recipe, real):
    make_student = dd.network_factory("convnet", real.image_shape, real.num_classes, width=4)
    return recipe.plan(real, make_student=make_student, rng=dd.generator("plan"))


def recipes():
    common = {"ipc": 2, "real_batch": 8}
    return {
        "dm": dd.DM(**common, steps=STEPS),
        "dc": dd.DC(**common, students=1, student_epochs=1),
        "momentum": dd.DataDAM(**common, steps=STEPS),
    }


def in_one(real):
    found = {}
    for name, recipe in recipes().items():
        run = dd.Distillation(whole_plan(recipe, real), real, rng=dd.generator("steps"))
        losses = [step.loss for step in run]
        found[name] = (losses, run.result.detached(dd.generator(0)).x)
    return found


def in_a_group(rank, size, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=size)
    real, found = dd.load("digits"), {}
    for name, recipe in recipes().items():
        group = ProcessSum()
        plan = shared_plan(whole_plan(recipe, real), real.num_classes, group)
        run = dd.Distillation(plan, real, rng=dd.generator("steps"))
        losses = [step.loss for step in run]
        found[name] = (losses, run.result.detached(dd.generator(0)).x)
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3])
def test_a_shared_step_is_that_of_one_process(tmp_path, size):
    mp.spawn(in_a_group, args=(size, str(tmp_path)), nprocs=size)
    alone = in_one(dd.load("digits"))
    shared = [torch.load(tmp_path / f"{rank}.pt") for rank in range(size)]
    for name, (losses, images) in alone.items():
        for found in shared:
            assert found[name][0] == pytest.approx(losses, rel=1e-4)
            torch.testing.assert_close(found[name][1], images, rtol=1e-3, atol=1e-4)
            assert torch.equal(found[name][1], shared[0][name][1]), "all processes took the same step"
        assert not torch.equal(images, whole_plan(recipes()[name], dd.load("digits")).syn.detached(dd.generator(0)).x)


@pytest.mark.slow
def test_torchrun_runs_the_example(tmp_path):
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "OMP_NUM_THREADS": "1"}
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
        # A machine that is busy may lose a member while the group meets; a second meeting is torchrun's own answer.
        *("--max-restarts", "2"),
        *(str(ROOT / "examples" / "distil_in_parallel.py"), str(tmp_path / "set"), "2"),
    ]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "step 2: loss" in done.stdout
    assert dd.Distilled.load(tmp_path / "set").ipc == 5


def test_what_cannot_be_shared_is_refused(tiny, make_student, monkeypatch):
    with pytest.raises(RuntimeError, match="start with torchrun"):
        ProcessSum()
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_rank", lambda: 0)
    monkeypatch.setattr(dist, "get_world_size", lambda: 4)
    plan = dd.DM(ipc=1).plan(tiny, make_student=make_student, rng=dd.generator(0))
    with pytest.raises(ValueError, match="processes must be at most the 3 classes, got 4"):
        shared_plan(plan, 3, ProcessSum())
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    joint = dd.RFAD(ipc=1).plan(tiny, make_student=make_student, rng=dd.generator(0))
    with pytest.raises(TypeError, match="objective must be a ClassMatch"):
        shared_plan(joint, 3, ProcessSum())
