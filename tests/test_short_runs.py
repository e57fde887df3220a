"""Runs of a named recipe under a time budget: settings for short runs, and networks whose training fits."""

from __future__ import annotations

import numpy as np
import pytest

import ddsdk as dd
from ddsdk.cli import main
from ddsdk.planning.methods import with_shorter_training


def test_a_named_recipe_under_a_budget_has_settings_for_short_runs(tmp_path, capsys):
    args = ["distill", "--data", "digits", "--recipe", "dc", "--ipc", "1", "--image-lr", "0.3", "--width", "4"]
    few = ["--real-batch", "8", "--validation-epochs", "1", "--validation-width", "2"]
    assert main([*args, *few, "--budget", "2s", "--out", str(tmp_path / "short")]) == 0
    said = capsys.readouterr().out
    assert "settings for short runs, where you set nothing else: real_batch=64, image_lr=1.0, start='k-means'" in said
    assert "start: validation accuracy" in said
    record = dd.Distilled.load(tmp_path / "short").provenance
    assert {name: record["parameters"][name] for name in ("image_lr", "real_batch", "start", "anneal")} == {
        "image_lr": 0.3,
        "real_batch": 8,
        "start": "k-means",
        "anneal": True,
    }
    assert record["student"]["options"]["width"] == 4
    assert record["configuration"]["validation"] == 0.1
    assert main([*args, "--real-batch", "8", "--students", "1", "--out", str(tmp_path / "paper")]) == 0
    record = dd.Distilled.load(tmp_path / "paper").provenance
    assert (record["parameters"]["start"], record["parameters"]["anneal"]) == ("noise", False)
    assert "validation" not in record["configuration"]


def test_a_budget_covers_the_networks_of_a_recipe(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("DDSDK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("ddsdk.students.TrainedRuns.estimate", lambda self: 1000.0)
    args = ["distill", "--data", "digits", "--recipe", "ncfm", "--ipc", "1", "--width", "4", "--depth", "1"]
    args += ["--frequencies", "4", "--real-batch", "4", "--pool", "20", "--pool-epochs", "60", "--validation", "0"]
    assert main([*args, "--budget", "4s", "--out", str(tmp_path / "set")]) == 0
    said = capsys.readouterr().out
    assert "networks to train would take about 17 minutes; their training is shortened: pool_images=100" in said
    record = dd.Distilled.load(tmp_path / "set").provenance
    assert record["runs"]["count"] == 2
    assert record["parameters"]["pool_epochs"] == 2


@pytest.mark.parametrize(("ipc", "sizes", "held"), [(5, 5, False), (1, 1, False), (20, 22, False), (2, 30, True)])
def test_small_classes_are_not_split_for_the_choice_of_the_best_set(tmp_path, capfd, ipc, sizes, held):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (3 * sizes, 8, 8, 1), dtype=np.uint8)
    np.savez(tmp_path / "own.npz", images=images, labels=np.repeat(np.arange(3), sizes))
    args = ["distill", "--data", str(tmp_path / "own.npz"), "--recipe", "dm", "--ipc", str(ipc), "--width", "4"]
    args += ["--budget", "1s", "--validation-epochs", "1", "--validation-width", "2", "--out", str(tmp_path / "set")]
    assert main(args) == 0
    assert ("start: validation accuracy" in capfd.readouterr().out) == held
    record = dd.Distilled.load(tmp_path / "set").provenance
    assert record["data"]["images"] == 3 * sizes - (9 if held else 0)
    # An explicit fraction is taken as it is.
    if ipc == 5:
        assert main([*args[:-1], str(tmp_path / "split"), "--validation", "0.1"]) == 2


def test_a_run_that_was_stopped_in_the_training_of_networks_is_shortened_again(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("DDSDK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("ddsdk.students.TrainedRuns.estimate", lambda self: 1000.0)
    monkeypatch.setattr("ddsdk.cli.distill.train_networks", lambda run: False)
    args = ["distill", "--data", "digits", "--recipe", "ncfm", "--ipc", "1", "--width", "4", "--pool", "20"]
    for more in ([], ["--resume"]):
        assert main([*args, "--budget", "4s", "--out", str(tmp_path / "set"), *more]) == 75
        assert "pool=2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("method", "share", "fields"),
    [
        (dd.MTT(ipc=1, experts=10, expert_epochs=10, expert_images=1000), 0.5, (500, 10, 10)),
        (dd.MTT(ipc=1, experts=10, expert_epochs=10), 0.05, (100, 5, 10)),
        (dd.MTT(ipc=1, experts=10, expert_epochs=10, expert_span=4), 0.0001, (100, 2, 4)),
        (dd.MTT(ipc=1, experts=1, expert_epochs=2, expert_images=5), 0.0001, (5, 1, 2)),
    ],
)
def test_the_training_of_networks_becomes_shorter(method, share, fields):
    short = with_shorter_training(method, 1000, share)
    assert (short.expert_images, short.experts, short.expert_epochs) == fields
    dm = dd.DM(ipc=1)
    assert with_shorter_training(dm, 1000, share) is dm
