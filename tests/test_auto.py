"""`--recipe auto`: trials on held-out images, the continuation of the best one, and its record."""

from __future__ import annotations

import json
from contextlib import contextmanager

import pytest

import ddsdk as dd
from ddsdk.cli import main
from ddsdk.planning import LEADERBOARDS_PATH
from ddsdk.running import Run, take_trial

SMALL = ["--ipc", "1", "--width", "4", "--validation-epochs", "2", "--validation-width", "2"]


@pytest.fixture
def measured(tmp_path):
    """File of measurements of two small methods with steps, and of one without."""
    stored = json.loads(LEADERBOARDS_PATH.read_text())
    board = next(board for board in stored["leaderboards"] if board["data"] == "fashion-mnist")
    dm = next(entry for entry in board["entries"] if entry["recipe"] == "dm")
    board["entries"] = [
        {**dm, "recipe": "krr", "settings": {}},
        {**dm, "settings": {"real_batch": 4}},
        {**dm, "recipe": "dcc", "settings": {"real_batch": 4, "steps_per_student": 2}},
    ]
    path = tmp_path / "measured.json"
    path.write_text(json.dumps({**stored, "leaderboards": [board]}))
    return path


@pytest.fixture
def command(tmp_path, measured, monkeypatch):
    # All methods are tried, also on a busy machine.
    monkeypatch.setattr("ddsdk.cli.auto._ALL_TRIALS", 1e9)
    words = ["distill", "--data", "digits", "--recipe", "auto", "--measured", str(measured), *SMALL]
    return [*words, "--budget", "3s", "--out", str(tmp_path / "set")]


def test_the_best_trial_goes_on_and_all_are_recorded(command, tmp_path, capsys, monkeypatch):
    scores = iter((0.25, 0.75))
    monkeypatch.setattr("ddsdk.cli.auto._score", lambda *_: next(scores))
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "trying dm, dcc for 0.3 s each" in said
    assert "continuing dcc" in said
    record = dd.Distilled.load(tmp_path / "set").provenance
    trials = record["configuration"]["trials"]
    assert record["recipe"] == record["configuration"]["recipe"] == "dcc"
    assert [(trial["recipe"], trial["score"]) for trial in trials] == [("dm", 0.25), ("dcc", 0.75)]
    assert all(trial["steps"] >= 1 for trial in trials)
    assert record["parameters"]["start"] == "k-means"
    assert record["steps_done"] == 2 * record["parameters"]["students"] >= trials[1]["steps"]


def test_no_trial_begins_after_half_of_the_budget(command, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("ddsdk.cli.auto._ALL_TRIALS", 0.0)
    assert main(command) == 0
    assert "dcc is not tried" in capsys.readouterr().out
    record = dd.Distilled.load(tmp_path / "set").provenance
    assert [trial["recipe"] for trial in record["configuration"]["trials"]] == ["dm"]


def test_a_stopped_run_goes_on_without_new_trials(command, tmp_path, monkeypatch, capsys):
    @contextmanager
    def stopped():
        yield [2]

    with monkeypatch.context() as patch:
        patch.setattr("ddsdk.cli.execution.collected_signals", stopped)
        assert main(command) == 75
    capsys.readouterr()
    assert main([*command, "--resume"]) == 0
    assert "trying" not in capsys.readouterr().out
    record = dd.Distilled.load(tmp_path / "set").provenance
    assert record["recipe"] in ("dm", "dcc")
    assert len(record["configuration"]["trials"]) == 2
    assert main([*command, "--resume"]) == 0
    assert "already finished" in capsys.readouterr().out


def test_the_score_of_a_trial_is_that_of_networks_on_held_out_images(command, capsys):
    assert main([*command, "--label-kind", "soft"]) == 0
    assert capsys.readouterr().out.count("% on held-out images after") == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--validation", "0"], "recipe must be named for data without held-out images"),
        (["--label-kind", "none"], "label-kind must be one of hard, soft"),
    ],
)
def test_auto_needs_held_out_images_and_known_labels(command, changes, message, capsys, tmp_path):
    assert main([*command, *changes]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "set").exists()


def test_a_run_of_a_named_recipe_is_not_resumed_as_auto(command, tmp_path, capsys):
    named = ["distill", "--data", "digits", "--recipe", "dm", "--steps", "1", "--real-batch", "4", *SMALL[:4]]
    assert main([*named, "--out", str(tmp_path / "set")]) == 0
    assert main([*command, "--resume"]) == 2
    assert "go on with --recipe dm" in capsys.readouterr().err


def test_a_shortened_run_is_the_run_of_fewer_steps(tiny, make_student):
    def run(steps):
        return Run(dd.DM(ipc=1, steps=steps, real_batch=4), tiny, make_student=make_student, seed=3)

    long, short = run(10), run(5)
    for _ in range(3):
        next(long)
    assert long.shorten(5) == 5
    assert [step.number for step in long] == [4, 5]
    assert long.distilled().content_id == short.complete().content_id
    assert long.shorten(3) == 5  # of these steps each is taken


def test_a_trial_takes_one_step_at_least_and_scores_the_set(tiny, make_student):
    run = Run(dd.DM(ipc=1, steps=40, real_batch=4), tiny, make_student=make_student)
    trial = take_trial(run, budget=60.0, seconds=1e-9, score=lambda distilled: float(len(distilled)))
    assert trial.record() == {"recipe": "dm", "steps": 1, "score": 3.0, "seconds": round(trial.seconds, 3)}
    estimate = trial.within(0.0)
    assert estimate.steps == 1
    assert len(trial.run.complete()) == 3
