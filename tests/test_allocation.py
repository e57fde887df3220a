"""The n-th allocation fails: whatever was going on is undone, and can go on as if nothing had happened."""

from __future__ import annotations

import pytest
import torch
from tiny_recipes import RECIPE_SETTINGS
from torch.utils._python_dispatch import TorchDispatchMode

import ddsdk as dd
from ddsdk.running.run import Run

CHOSEN = ("dm", "dc", "idc", "rfad", "rat-bptt", "sldd", "kfs")


class FailingAt(TorchDispatchMode):
    """Raise MemoryError in place of the n-th operator, as a full memory would."""

    def __init__(self, n):
        super().__init__()
        self.left = n

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.left -= 1
        if self.left == 0:
            raise MemoryError("injected")
        return func(*args, **(kwargs or {}))


def start(name, real, make_student):
    recipe = dd.RECIPES[name](ipc=1, **RECIPE_SETTINGS[name])
    return Run(recipe, real, make_student=make_student, seed=0).distillation


def images(run):
    return run.plan.syn.detached(dd.generator(0)).x


def operators_of_a_step(name, real, make_student):
    run, counter = start(name, real, make_student), FailingAt(-1)
    with counter:
        next(run)
    return -1 - counter.left


@pytest.mark.parametrize("name", CHOSEN)
def test_a_step_that_runs_out_of_memory_is_undone(tiny, make_student, name):
    straight = start(name, tiny, make_student)
    losses = [next(straight).loss for _ in range(2)]
    count = operators_of_a_step(name, tiny, make_student)
    assert count > 50
    run = start(name, tiny, make_student)
    before = images(run)
    for n in sorted({1, 2, count // 3, count // 2, count - 40, count - 3, *range(7, count, max(11, count // 12))}):
        with pytest.raises((MemoryError, RuntimeError)), FailingAt(n):
            next(run)
        assert run.index == 0
        assert torch.equal(images(run), before), f"operator {n} of {count} left something behind"
    assert [next(run).loss for _ in range(2)] == losses
    assert torch.equal(images(run), images(straight))


def test_judging_leaves_the_set_alone_when_memory_runs_out(tiny):
    batch = tiny.batch(torch.arange(6))
    kept = batch.x.clone()
    protocol = dd.TrainingProtocol(network_options={"width": 4, "depth": 1}, epochs=1, networks=1)
    for n in (1, 20, 60, 90):
        with pytest.raises((MemoryError, RuntimeError)), FailingAt(n):
            dd.evaluate(batch, tiny, protocol, seed=0)
        assert torch.equal(batch.x, kept)
    assert dd.evaluate(batch, tiny, protocol, seed=0).accuracies


def test_saving_a_set_when_memory_runs_out_leaves_the_old_one(tmp_path, tiny):
    from artefact_sets import make_set

    first, second = make_set(seed=1), make_set(seed=2)
    first.save(tmp_path / "set")
    failures = 0
    for n in range(1, 40):
        try:
            with FailingAt(n):
                make_set(seed=2).save(tmp_path / "set")
        except (MemoryError, RuntimeError):
            failures += 1
            assert dd.Distilled.load(tmp_path / "set").content_id in (first.content_id, second.content_id)
    assert failures > 5
    second.save(tmp_path / "set")
    assert dd.Distilled.load(tmp_path / "set").content_id == second.content_id
