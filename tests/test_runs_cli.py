"""`ddsdk distill` with a recipe that needs trained networks: said, made, stopped, gone on with, and accounted for."""

from __future__ import annotations

import os
import signal
import sys

import pytest

import ddsdk as dd
from ddsdk.cli import main
from ddsdk.cli.execution import announce_runs
from ddsdk.students import TrainedRuns, Training

ARGS = ["distill", "--data", "digits", "--recipe", "mtt", "--threads", "1", "--width", "4", "--depth", "1"]
ARGS += ["--ipc", "1", "--steps", "2", "--student-steps", "2", "--experts", "2", "--expert-epochs", "3"]
ARGS += ["--expert-images", "10"]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DDSDK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_networks_are_announced_made_and_found_again(tmp_path, cache, capsys):
    assert main([*ARGS, "--out", str(tmp_path / "a")]) == 0
    said = capsys.readouterr().out
    assert "2 of 2 networks are not trained yet: 3 epochs each, 0." in said
    assert f"MiB in {cache}" in said
    files = {p: p.stat().st_mtime_ns for p in cache.glob("run-*.safetensors")}
    assert len(files) == 2

    about = dd.Distilled.load(tmp_path / "a").provenance
    assert about["runs"]["count"] == 2
    assert about["runs"]["seconds"] > 0
    assert about["seconds"] >= about["runs"]["seconds"]

    assert main([*ARGS, "--out", str(tmp_path / "b")]) == 0
    assert "networks are not trained yet" not in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in cache.glob("run-*.safetensors")} == files
    again = dd.Distilled.load(tmp_path / "b")
    assert again.content_id == dd.Distilled.load(tmp_path / "a").content_id
    assert again.provenance["runs"] == about["runs"]
    assert again.provenance["seconds"] >= about["runs"]["seconds"]


def test_a_recipe_in_a_program_finds_the_networks_of_the_command_line(tmp_path, cache, digits):
    assert main([*ARGS, "--out", str(tmp_path / "a")]) == 0
    train, _ = digits
    make = dd.network_factory("convnet", train.image_shape, 10, width=4, depth=1)
    recipe = dd.MTT(ipc=1, steps=2, student_steps=2, experts=2, expert_epochs=3, expert_images=10)
    found = dd.distill(recipe, train, make_student=make, seed=0)
    assert found.content_id == dd.Distilled.load(tmp_path / "a").content_id
    assert len(list(cache.glob("run-*"))) == 2


@pytest.mark.parametrize(("epoch", "kept"), [(1, 0), (3, 1), (5, 1), (6, 2)])
def test_a_stop_between_epochs_keeps_whole_networks(tmp_path, cache, monkeypatch, capsys, epoch, kept):
    args = [*ARGS, "--out", str(tmp_path / "set")]
    real = TrainedRuns.make

    def stopping(self):
        for progress in real(self):
            if progress.done == epoch:
                os.kill(os.getpid(), signal.SIGTERM)
            yield progress

    monkeypatch.setattr(TrainedRuns, "make", stopping)
    monkeypatch.setattr(sys, "argv", ["ddsdk", *args])
    assert main(args) == 75
    said = capsys.readouterr().err
    assert f"stopped with {2 - kept} networks left to train; continue with: ddsdk distill" in said
    assert said.rstrip().endswith("--resume")
    files = list(cache.glob("run-*.safetensors"))
    assert len(files) == kept
    assert not (tmp_path / "set" / "manifest.json").exists()

    monkeypatch.setattr(TrainedRuns, "make", real)
    assert main([*args, "--resume"]) == 0
    said = capsys.readouterr().out
    assert (f"{2 - kept} of 2 networks are not trained yet" in said) == (kept < 2)
    assert set(files) <= set(cache.glob("run-*.safetensors"))
    assert dd.Distilled.load(tmp_path / "set").provenance["steps_done"] == 2


def test_a_stop_of_the_steps_goes_on_and_counts_the_networks_once(tmp_path, monkeypatch, capsys):
    args = [*ARGS, "--out", str(tmp_path / "set")]
    real = dd.Distillation.__next__
    taken = []

    def stopping(self):
        taken.append(1)
        if len(taken) == 3:  # the trial takes two
            os.kill(os.getpid(), signal.SIGTERM)
        return real(self)

    monkeypatch.setattr(dd.Distillation, "__next__", stopping)
    assert main(args) == 75
    assert "stopped after step 1" in capsys.readouterr().err
    assert main([*args, "--resume"]) == 0
    resumed = dd.Distilled.load(tmp_path / "set")
    assert main([*ARGS, "--out", str(tmp_path / "whole")]) == 0
    whole = dd.Distilled.load(tmp_path / "whole")
    assert resumed.content_id == whole.content_id
    assert resumed.provenance["runs"] == whole.provenance["runs"]


def test_the_bytes_are_those_of_the_missing_ones(tiny, make_student, tmp_path, capsys):
    runs = TrainedRuns(tiny, make_student, Training(epochs=7), count=4, seed=0, folder=tmp_path)
    announce_runs(runs, 1)
    size = runs.flat.size * 8 * 4 / 2**20
    assert f"1 of 4 networks are not trained yet: 7 epochs each, {size:.1f} MiB in {tmp_path}" in (
        capsys.readouterr().out
    )


def test_a_recipe_without_steps_is_served_too(tmp_path, cache, capsys):
    args = [*ARGS[:3], "--recipe", "rded", *ARGS[5:13], "--images", "4", "--teacher-epochs", "1"]
    assert main([*args, "--out", str(tmp_path / "set")]) == 0
    assert "1 of 1 networks are not trained yet" in capsys.readouterr().out
    assert len(list(cache.glob("run-*"))) == 1
