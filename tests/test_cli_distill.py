"""`ddsdk distill`: what it says and returns when a run diverges, goes on, or is not allowed to start."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import sys

import pytest

import ddsdk as dd
from ddsdk.cli import main
from ddsdk.cli.distill import DistillOptions, run_recipe
from ddsdk.cli.execution import announce
from ddsdk.running import CostEstimate

ARGS = ["distill", "--data", "digits", "--threads", "1", "--width", "4", "--depth", "1", "--ipc", "1"]
ARGS += ["--recipe", "dm", "--steps", "3", "--real-batch", "4"]


def test_a_diverged_run_is_told_again(tmp_path, capsys):
    args = [*ARGS, "--image-lr", "1e30", "--out", str(tmp_path / "set")]
    assert main(args) == 3
    assert "last finite set was saved" in capsys.readouterr().err
    about = dd.Distilled.load(tmp_path / "set").provenance
    assert about["diverged"] is True
    assert about["rate_reductions"] == 5
    assert main([*args, "--resume"]) == 3
    assert "diverged" in capsys.readouterr().err


def test_resuming_nothing_is_said(tmp_path, capsys):
    args = [*ARGS, "--out", str(tmp_path / "set"), "--resume"]
    assert main(args) == 0
    assert f"no checkpoint in {tmp_path / 'set'}, starting at step 1" in capsys.readouterr().out
    assert dd.Distilled.load(tmp_path / "set").provenance["student"]["options"]["depth"] == 1
    assert main(args) == 0
    said = capsys.readouterr().out
    assert "already finished" in said
    assert "no checkpoint" not in said


def test_a_folder_of_something_else_is_refused_before_the_run(tmp_path, capsys):
    (tmp_path / "README.md").write_text("mine")
    assert main([*ARGS, "--out", str(tmp_path)]) == 2
    assert "that ddsdk has not written" in capsys.readouterr().err
    assert main([*ARGS, "--out", str(tmp_path / "README.md" / "x")]) == 2
    assert "cannot make folder" in capsys.readouterr().err


@pytest.mark.parametrize("by_itself", [False, True])
def test_a_stopped_run_names_a_command_that_is_valid(tmp_path, monkeypatch, capsys, digits, by_itself):
    monkeypatch.setattr(sys, "argv", ["ddsdk", "demo"])
    real = dd.Distillation.__next__

    def stopping(self):
        os.kill(os.getpid(), signal.SIGTERM)
        monkeypatch.setattr(dd.Distillation, "__next__", real)
        return real(self)

    monkeypatch.setattr(dd.Distillation, "__next__", stopping)
    options = DistillOptions(data="digits", out=tmp_path / "set", width=4, depth=1, resume=by_itself)
    assert run_recipe(dd.DM(ipc=1, steps=3, real_batch=4), digits[0], options) == 75
    said = capsys.readouterr().err
    assert said.rstrip().endswith("ddsdk demo" if by_itself else "ddsdk demo --resume")


def test_a_second_signal_does_not_wait(tmp_path, monkeypatch, digits):
    real = dd.Distillation._gradient
    calls = []

    def twice(self):
        calls.append(1)
        # The trial takes two.
        if len(calls) == 4:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
        return real(self)

    monkeypatch.setattr(dd.Distillation, "_gradient", twice)
    options = DistillOptions(data="digits", out=tmp_path / "set", width=4, depth=1)
    method = dd.DM(ipc=1, steps=9, real_batch=4)
    with pytest.raises(KeyboardInterrupt):
        run_recipe(method, digits[0], options)
    config_free = dd.Job(tmp_path / "set", {}, resume=True)
    with pytest.raises(ValueError, match="another configuration"), config_free:
        pass
    again = DistillOptions(data="digits", out=tmp_path / "set", width=4, depth=1, resume=True)
    assert run_recipe(method, digits[0], again) == 0
    assert dd.Distilled.load(tmp_path / "set").provenance["steps_done"] == 9


def test_the_time_is_that_of_the_steps_that_are_left(capsys):
    estimate = CostEstimate(steps=100, seconds=50.0, memory=2**20, disk=2**20)
    announce(estimate)
    announce(estimate, 80)
    whole, left = capsys.readouterr().out.splitlines()
    assert whole.startswith("100 steps, about 50 s")
    assert left.startswith("20 of 100 steps left, about 10 s")


@pytest.mark.slow
def test_demo_shows_everything(tmp_path, capsys):
    assert main(["demo", "--out", str(tmp_path / "demo"), "--steps", "3"]) == 0
    said = capsys.readouterr().out
    for word in ("dm", "random", "herding", "k-means", "full training set", "sheet.png", "report.html"):
        assert word in said
    (line,) = [line for line in said.splitlines() if line.startswith("open with ")]
    program, flag, code = shlex.split(line.removeprefix("open with"))
    assert (program, flag) == ("python", "-c")
    exec(code, {})
    assert capsys.readouterr().out.startswith("Distilled(recipe=")
    assert (tmp_path / "demo" / "report.html").exists()


def test_a_full_disk_is_found_before_the_first_step(tmp_path, monkeypatch, capsys):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=100))
    assert main([*ARGS, "--out", str(tmp_path / "set")]) != 0
    told = capsys.readouterr().err
    assert "the checkpoints and the set will take" in told and "the disk has 100 bytes free" in told
    assert not (tmp_path / "set" / "checkpoint.safetensors").exists()


@pytest.mark.parametrize("name", ["SIGHUP", "SIGQUIT", "SIGTERM", "SIGINT"])
def test_each_signal_to_stop_leaves_a_checkpoint(tmp_path, monkeypatch, capsys, name):
    steps = dd.Job.steps

    def signalled(job, run):
        for step in steps(job, run):
            if step.number == 2:
                os.kill(os.getpid(), getattr(signal, name))
            yield step

    monkeypatch.setattr(dd.Job, "steps", signalled)
    # The tests may run under nohup, whose processes ignore SIGHUP.
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    handlers = signal.getsignal(signal.SIGHUP), signal.getsignal(signal.SIGQUIT)
    try:
        assert main([*ARGS, "--out", str(tmp_path / "set")]) == 75
        assert handlers == (signal.getsignal(signal.SIGHUP), signal.getsignal(signal.SIGQUIT))
    finally:
        signal.signal(signal.SIGHUP, before)
    assert "stopped after step 2" in capsys.readouterr().err
    assert (tmp_path / "set" / "checkpoint.safetensors").exists()


def test_an_ignored_hangup_stays_ignored(tmp_path, monkeypatch):
    before, steps, seen = signal.signal(signal.SIGHUP, signal.SIG_IGN), dd.Job.steps, []

    def looking(job, run):
        for step in steps(job, run):
            seen.append(signal.getsignal(signal.SIGHUP))
            yield step

    monkeypatch.setattr(dd.Job, "steps", looking)
    try:
        assert main([*ARGS, "--out", str(tmp_path / "set")]) == 0
    finally:
        signal.signal(signal.SIGHUP, before)
    assert seen == [signal.SIG_IGN] * 3
