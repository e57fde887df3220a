"""Memory runs out at the n-th operator: the step is repeated in smaller pieces, or undone without a trace."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from tiny_recipes import RECIPE_SETTINGS
from torch.utils._python_dispatch import TorchDispatchMode

import ddsdk as dd
from ddsdk.running.run import Run
from ddsdk.training.micro import MICRO_BATCH, MemoryFallback, may_keep_graphs

CHOSEN = ("dm", "dc", "idc", "rfad", "rat-bptt", "sldd", "kfs")
# Networks with batch statistics and kernel machines are passed whole batches, so nothing can become smaller.
IN_PIECES = ("dm", "dc", "idc", "rat-bptt")


class FailingAt(TorchDispatchMode):
    """Raise an error in place of some operators from the n-th on, as a full memory would."""

    def __init__(self, n, times=math.inf, error=MemoryError):
        super().__init__()
        self.left, self.times, self.error = n, times, error

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.left -= 1
        if self.left <= 0 and self.times > 0:
            self.times -= 1
            raise self.error("injected: not enough memory")
        return func(*args, **(kwargs or {}))


def start(name, real, make_student):
    recipe = dd.RECIPES[name](ipc=1, **RECIPE_SETTINGS[name])
    return Run(recipe, real, make_student=make_student, seed=0).distillation


def images(run):
    return run.plan.syn.detached(dd.generator(0)).x


def operators_of_a_step(name, real, make_student):
    run, counter = start(name, real, make_student), FailingAt(10**9)
    with counter:
        next(run)
    return 10**9 - counter.left


@pytest.mark.parametrize("name", CHOSEN)
def test_a_step_without_memory_is_undone(tiny, make_student, name):
    straight = start(name, tiny, make_student)
    losses = [next(straight).loss for _ in range(2)]
    count = operators_of_a_step(name, tiny, make_student)
    assert count > 50
    run = start(name, tiny, make_student)
    before = images(run)
    for n in sorted({1, 2, count // 3, count // 2, count - 40, count - 3, *range(7, count, max(11, count // 12))}):
        # What undoes the step needs operators of its own, so memory is back by then.
        run._memory.size = 1
        with pytest.raises(MemoryError, match="pass fewer images per class"), FailingAt(n, times=1):
            next(run)
        run._memory.size = None
        assert run.index == 0
        assert torch.equal(images(run), before), f"operator {n} of {count} left something behind"
    assert [next(run).loss for _ in range(2)] == losses
    assert torch.equal(images(run), images(straight))


@pytest.mark.parametrize("error", [MemoryError, torch.OutOfMemoryError, RuntimeError])
@pytest.mark.parametrize("name", IN_PIECES)
def test_a_step_without_memory_is_repeated_in_smaller_pieces(tiny, make_student, name, error, caplog):
    count = operators_of_a_step(name, tiny, make_student)
    run = start(name, tiny, make_student)
    caplog.set_level("INFO", "ddsdk")
    with FailingAt(3 * count // 4, times=1, error=error):
        losses = [next(run).loss]
    size = run._memory.size
    assert size is not None
    assert f"going on with {size}" in caplog.text
    small = start(name, tiny, make_student)
    small._memory.size = size
    assert [*losses, next(run).loss] == [next(small).loss for _ in range(2)]
    assert torch.equal(images(run), images(small))
    assert run.record()["micro_batch"] == size


def test_a_step_that_cannot_be_undone_is_neither_repeated_nor_saved(tiny, make_student):
    run = start("dc", tiny, make_student)
    with pytest.raises(RuntimeError, match="go on from the last checkpoint"), FailingAt(900, times=2):
        next(run)
    for use in (run.state_dict, lambda: next(run)):
        with pytest.raises(RuntimeError, match="interrupted while it was undone"):
            use()
    # A whole state, such as that of the last checkpoint, makes the loop usable again.
    sound = start("dc", tiny, make_student)
    run.load_state_dict(sound.state_dict())
    assert next(run).loss == next(sound).loss


def test_an_interrupt_while_the_rate_is_reduced_is_not_saved(tiny, make_student):
    run = start("dc", tiny, make_student)
    run.plan = dataclasses.replace(run.plan, penalty=lambda syn: next(syn.parameters()).sum() * math.nan)
    load = run._optimizer.load_state_dict

    def interrupted(state):
        raise KeyboardInterrupt

    run._optimizer.load_state_dict = interrupted
    with pytest.raises(KeyboardInterrupt):
        next(run)
    run._optimizer.load_state_dict = load
    with pytest.raises(RuntimeError, match="interrupted while it was undone"):
        run.state_dict()


def test_a_step_that_must_not_be_repeated_is_not(tiny, make_student):
    run = start("dc", tiny, make_student)
    run._retries = 0
    with pytest.raises(MemoryError, match="injected"), FailingAt(900, times=1):
        next(run)


def test_a_resumed_run_keeps_the_smaller_pieces(tiny, make_student):
    run, resumed = start("dc", tiny, make_student), start("dc", tiny, make_student)
    run._memory.size, run._memory.keep_graphs = 3, False
    next(run)
    resumed.load_state_dict(run.state_dict())
    assert (resumed._memory.size, resumed._memory.keep_graphs) == (3, False)
    assert next(resumed).loss == next(run).loss
    added = ("micro_batch", "keep_graphs")
    resumed.load_state_dict({name: value for name, value in run.state_dict().items() if name not in added})
    assert (resumed._memory.size, resumed._memory.keep_graphs) == (None, True)


def test_the_first_failure_with_kept_graphs_keeps_the_pieces(caplog):
    caplog.set_level("INFO", "ddsdk")
    network, x, fallback, seen = torch.nn.Linear(1, 1), torch.ones(2, requires_grad=True), MemoryFallback(), []

    def compute():
        size = dd.training.micro_batch(network, torch.device("cpu"), 100)
        (end,) = dd.training.constant_memory(
            lambda k, weights, inputs: (weights * inputs[0]).square().sum(),
            torch.ones(2),
            [x],
            torch.tensor(0.1),
            steps=1,
            optimizer=dd.training.InnerSGD(),
        )
        seen.append((size, "Replayed" not in end.grad_fn.name()))
        if len(seen) < 3:
            raise MemoryError
        return torch.autograd.grad(end.sum(), x)[0]

    replayed = fallback(compute)
    assert seen == [(32, True), (32, False), (16, False)]
    assert "going on without them" in caplog.text
    assert (fallback.size, fallback.keep_graphs) == (16, False)
    torch.testing.assert_close(compute(), replayed)
    assert seen[3] == (32, True)


def test_kept_graphs_are_given_up_where_there_are_no_pieces():
    kept = []

    def compute():
        kept.append(may_keep_graphs())
        if kept[-1]:
            raise MemoryError

    MemoryFallback()(compute)
    assert kept == [True, False]


@pytest.mark.parametrize("times", [1, 3, 5])
def test_each_failure_halves_the_pieces(times):
    network, fallback, sizes = torch.nn.Linear(1, 1), MemoryFallback(), []

    def compute():
        sizes.append(dd.training.micro_batch(network, torch.device("cpu"), 100))
        if len(sizes) <= times:
            raise MemoryError
        return "done"

    assert fallback(compute) == "done"
    assert sizes == [32, 16, 8, 4, 2, 1][: times + 1]
    assert fallback.size == sizes[-1]
    assert dd.training.micro_batch(network, torch.device("cpu"), 100) == MICRO_BATCH["cpu"]


def test_pieces_that_exceed_the_batch_do_not_count(monkeypatch):
    monkeypatch.setitem(MICRO_BATCH, "cpu", None)
    network, fallback, sizes = torch.nn.Linear(1, 1), MemoryFallback(), []

    def compute():
        sizes.append(dd.training.micro_batch(network, torch.device("cpu"), 6))
        raise MemoryError

    with pytest.raises(MemoryError, match="no micro-batch can become smaller"):
        fallback(compute)
    assert sizes == [6, 3, 1]


def test_an_allocation_that_really_fails_is_repeated():
    fallback, network, sizes = MemoryFallback(), torch.nn.Linear(1, 1), []

    def compute():
        sizes.append(dd.training.micro_batch(network, torch.device("cpu"), 100))
        return torch.empty(1 << 50 if len(sizes) == 1 else 1)

    assert len(fallback(compute)) == 1
    assert sizes == [32, 16]


@pytest.mark.parametrize(
    "text", ["CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED when calling", "MPS backend out of memory"]
)
def test_failures_of_gpu_libraries_are_failures_of_memory(text):
    calls = []

    def compute():
        calls.append(dd.training.micro_batch(torch.nn.Linear(1, 1), torch.device("cpu"), 8))
        if len(calls) == 1:
            raise RuntimeError(text)

    MemoryFallback()(compute)
    assert calls == [32, 4]


def test_a_step_of_several_processes_is_not_repeated_by_one(tiny, make_student):
    run = start("dc", tiny, make_student)
    run.plan = dataclasses.replace(run.plan, reduce=lambda parameters, loss: loss)
    with pytest.raises(MemoryError, match="injected"), FailingAt(900, times=1):
        next(run)
    assert run.index == 0


def test_other_errors_are_not_repeated():
    calls = []

    def compute():
        calls.append(1)
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        MemoryFallback()(compute)
    assert len(calls) == 1


def test_training_without_memory_goes_on_in_smaller_pieces(tiny, make_student):
    batch, protocol = tiny.batch(torch.arange(20)), dd.TrainingProtocol(epochs=2, batch_size=20)

    def weights(times):
        network = make_student(dd.generator(0))
        with FailingAt(60, times=times):
            assert list(dd.training.train(network, batch, protocol, dd.generator(1))) == [1, 2]
        return torch.cat([p.detach().flatten() for p in network.parameters()])

    assert torch.allclose(weights(1), weights(0), atol=1e-5)
    assert not torch.equal(weights(1), weights(0))


def test_the_command_says_what_would_fit(tmp_path, monkeypatch, capsys):
    def no_memory(*_, **__):
        raise MemoryError("injected")

    monkeypatch.setattr("ddsdk.objectives.match.in_micro_batches", no_memory)
    monkeypatch.setattr("ddsdk.objectives.match.ClassMatch.__call__", no_memory)
    args = ["distill", "--data", "digits", "--recipe", "dm", "--ipc", "1", "--steps", "2", "--width", "4"]
    assert dd.cli.main([*args, "--out", str(tmp_path / "set")]) == 2
    assert "memory ran out, and no micro-batch can become smaller: pass fewer images" in capsys.readouterr().err
    assert not (tmp_path / "set" / "manifest.json").exists()


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
            with FailingAt(n, times=1):
                make_set(seed=2).save(tmp_path / "set")
        except (MemoryError, RuntimeError):
            failures += 1
            assert dd.Distilled.load(tmp_path / "set").content_id in (first.content_id, second.content_id)
    assert failures > 5
    second.save(tmp_path / "set")
    assert dd.Distilled.load(tmp_path / "set").content_id == second.content_id
