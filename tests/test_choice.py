"""Which method `ddsdk distill` takes where none is named: measured curves, the choice, the steps that fit, refusals."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys

import msgspec
import pytest

import ddsdk as dd
from ddsdk.cli import main
from ddsdk.cli.method_choice import chosen_method, duration
from ddsdk.experiments.curve import CurvePoint, RecipeCurve
from ddsdk.experiments.leaderboards import leaderboards_of
from ddsdk.foundation.errors import ArtifactError
from ddsdk.foundation.files import readable_json
from ddsdk.planning.choice import choose_methods, ranked_methods, times_to_accuracy
from ddsdk.planning.leaderboard_file import (
    LEADERBOARDS_PATH,
    Leaderboard,
    LeaderboardEntry,
    TimedAccuracy,
    read_leaderboards,
)
from ddsdk.planning.methods import METHODS
from ddsdk.running import run
from ddsdk.running.preview import shortened_method
from ddsdk.training.protocol import Score

BASE = ["distill", "--data", "digits", "--threads", "1", "--ipc", "1"]


def entry(recipe, *rows, **more):
    """A method with rows of mark, seconds, published and perhaps own accuracy."""
    keys = ("time_budget", "seconds", "published", "own")
    figures = tuple(TimedAccuracy(**dict(zip(keys, row, strict=False))) for row in rows)
    return LeaderboardEntry(recipe=recipe, settings=more.pop("settings", {}), figures=figures, **more)


def leaderboard(data, ipc, marks, *entries, **options):
    return Leaderboard(
        data=data,
        fingerprint=data,
        ipc=ipc,
        time_budgets=marks,
        network="",
        network_options=options or {"width": 4},
        held_out=0.1,
        threads=1,
        judge_networks=1,
        judge_epochs=300,
        judge_width=64,
        entries=entries,
    )


BOARDS = (
    leaderboard(
        "fashion-mnist",
        1,
        (30.0, 60.0),
        entry("dm", (30.0, 31.0, 0.6), (60.0, 61.0, 0.7)),
        entry("idc", (30.0, 31.0, 0.65, 0.66), (60.0, 61.0, 0.69, 0.74)),
        entry("kip", (30.0, 31.0, 0.99, 0.99), (60.0, 61.0, 0.99, 0.99), kernel=True),
        entry("dsa", (30.0, 46.0, 0.98)),
        entry("random", (30.0, 0.1, 0.4), (60.0, 0.1, 0.4)),
    ),
    leaderboard("fashion-mnist", 10, (60.0,), entry("dc", (60.0, 61.0, 0.8)), entry("dsa", (60.0, 60.5, 0.8, 0.7))),
    leaderboard(
        "digits",
        1,
        (0.5, 2.0),
        entry("random", (0.5, 0.0, 0.5), (2.0, 0.0, 0.5)),
        entry(
            "dm",
            (0.5, 0.6, 0.7),
            (2.0, 2.0, 0.8),
            settings={"real_batch": 4, "augmentation": "", "image_momentum": 0.25},
        ),
        entry("frepo", (0.5, 0.6, 0.6, 0.6), (2.0, 2.0, 0.75, 0.9)),
        width=4,
        depth=1,
    ),
)
CASES = {
    "hard labels read the published column": ("fashion-mnist", 1, "hard", 60.0, "dm", 60.0),
    "soft labels read the method's own": ("fashion-mnist", 1, "soft", 60.0, "idc", 60.0),
    "the largest mark within the budget": ("fashion-mnist", 1, "hard", 59.9, "idc", 30.0),
    "a budget beyond all marks": ("fashion-mnist", 1, "hard", 1e6, "dm", 60.0),
    "the smallest mark for less": ("fashion-mnist", 1, "hard", 1.0, "idc", 30.0),
    "of equals the faster": ("fashion-mnist", 10, "hard", 60.0, "dsa", 60.0),
    "a method without labels of its own stays": ("fashion-mnist", 10, "soft", 60.0, "dc", 60.0),
    "the nearest ipc, by ratio": ("fashion-mnist", 4, "hard", 60.0, "dsa", 60.0),
    "the nearest ipc from below": ("fashion-mnist", 3, "hard", 60.0, "dm", 60.0),
    "other measured data": ("digits", 50, "hard", 60.0, "dm", 2.0),
    "data that was not measured": ("cifar10", 1, "hard", 60.0, "dm", 60.0),
    "data that was not named": (None, 1, "soft", 60.0, "idc", 60.0),
}


@pytest.mark.parametrize("case", CASES)
def test_the_winner(case):
    data, ipc, kind, budget, recipe, mark = CASES[case]
    choice = choose_methods(BOARDS, kind=kind, budget=budget, ipc=ipc, data=data)[0]
    assert (choice.entry.recipe, choice.figure.time_budget) == (recipe, mark)


def test_kernels_and_late_sets_do_not_count():
    names = [found.recipe for _, _, found in ranked_methods(BOARDS[0], "soft", 30.0)]
    assert names == ["idc", "dm", "random"]


def test_the_line_says_what_differs_from_what_was_asked():
    known = choose_methods(BOARDS, kind="hard", budget=2.0, ipc=1, data="digits")[0].summary()
    assert known.startswith("taking dm: 80.0 % on held-out images of digits after 2 CPU seconds with 1 image")
    assert "the best of 3 methods for hard labels; with" in known
    assert "with real_batch=4, augmentation='', image_momentum=0.25, width=4, depth=1, where" in known
    assert known.endswith("the whole list: ddsdk winners")
    assert "measured" not in known
    other = choose_methods(BOARDS, kind="hard", budget=2.0, ipc=5, data="cifar10")[0].summary()
    assert "(measured on fashion-mnist and not on cifar10, at ipc 10 and not 5, after 60 s and not 2)" in other


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ipc": 0}, "ipc must be at least 1"),
        ({"budget": 0.0}, "budget must be positive"),
        ({"leaderboards": ()}, "name a recipe"),
        (
            {"leaderboards": (leaderboard("x", 1, (1.0,), entry("kip", (1.0, 1.0, 0.5), kernel=True)),)},
            "none at 1 s on x",
        ),
    ],
)
def test_a_choice_that_cannot_be_made(changes, message):
    given = {"leaderboards": BOARDS, "kind": "hard", "budget": 1.0, "ipc": 1, **changes}
    with pytest.raises(ValueError, match=message):
        choose_methods(given.pop("leaderboards"), **given)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("0.5s", 0.5), ("10m", 600), ("1.5h", 5400), ("2 M", 120)]
)
def test_durations(text, seconds):
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0s", "-3m", "m", "1d", "nan", "1e3", "5m3"])
def test_what_is_no_duration(text):
    with pytest.raises(ValueError, match="budget must be a time such as 60s"):
        duration(text)


def test_methods_run_as_long_as_there_is_time_and_no_longer_than_they_want():
    assert shortened_method(dd.DM(steps=100), 100, 200) == (dd.DM(steps=100), 100)
    assert shortened_method(dd.DM(steps=100), 100, 7) == (dd.DM(steps=7), 7)
    assert shortened_method(dd.DM(steps=100), 100, -3) == (dd.DM(steps=1), 1)
    assert shortened_method(dd.IDC(), 5000, 30) == (dd.IDC(steps=30), 30)
    assert shortened_method(dd.DC(ipc=10), 10_000, 25) == (dd.DC(ipc=10, students=2), 20)
    assert shortened_method(dd.DC(ipc=10), 10_000, 3) == (dd.DC(ipc=10, students=1), 10)


# Curves to boards and back.


def score(value, loss="cross-entropy"):
    return Score(
        name="x", protocol="p", network="n", accuracies=(value,), images=1, stored_floats=1, seconds=1.0, loss=loss
    )


def curve(name, values, own=(), seed=0, ended=False, loss="mse", **changes):
    marks = (1.0, 2.0)
    parameters = json.loads(msgspec.json.encode(dataclasses.asdict(METHODS[name](ipc=1))))
    points = tuple(
        CurvePoint(
            time_budget=mark,
            seconds=mark + 0.1,
            step=1,
            set="0",
            published=score(value),
            own=score(own[i], loss) if own else None,
        )
        for i, (mark, value) in enumerate(zip(marks, values, strict=False))
    )
    conditions = {
        "seconds": list(marks),
        "data": {"name": "digits", "fingerprint": "0"},
        "parameters": {**parameters, **changes.pop("parameters", {})},
        "network": "",
        "network_options": {"width": 4},
        "held_out": 0.1,
        "threads": 1,
        "judge_networks": 1,
        "judge_epochs": 300,
        "judge_width": 64,
        "versions": {"torch": "2"},
        "seed": seed,
        **changes,
    }
    return RecipeCurve(recipe=name, family="x", points=points, prepared=0.0, ended=ended, conditions=conditions)


def test_curves_become_a_board():
    curves = [
        curve("dm", (0.5, 0.6), parameters={"real_batch": 64}),
        curve("dm", (0.7, 0.6), parameters={"real_batch": 64}, seed=1),
        curve("dm", (0.1,)),
        curve("krr", (0.2,), own=(0.9,), loss="ridge", ended=True),
        curve("frepo", (0.5,), own=(0.8,)),
        curve("dm", (0.9, 0.9), parameters={"ipc": 10}),
    ]
    first, second = leaderboards_of(curves, METHODS)
    assert (first.ipc, second.ipc, first.time_budgets, first.network_options) == (1, 10, (1.0, 2.0), {"width": 4})
    dm, plain, krr, frepo = first.entries
    assert (dm.settings, dm.seeds) == ({"real_batch": 64}, (0, 1))
    assert [f.published for f in dm.figures] == [0.6, 0.6]
    assert plain.settings == {}
    assert len(plain.figures) == 1
    assert krr.kernel
    assert [f.time_budget for f in krr.figures] == [1.0, 2.0]
    assert not frepo.kernel
    assert frepo.figures[0].own == 0.8


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (curve("idc", (0.5,), judge_width=16), "on digits at ipc 1, got 'different judge width'"),
        (curve("idc", (0.5,), seconds=[1.0]), "different time budgets"),
        (curve("dm", (0.5,)), "hold each run once"),
        (dataclasses.replace(curve("idc", (0.5,)), recipe="nobody"), "curves must be of"),
        (dataclasses.replace(curve("idc", (0.5,)), conditions={}), "must have all conditions of measurement"),
    ],
)
def test_curves_that_do_not_belong_together(other, message):
    with pytest.raises(ValueError, match=message):
        leaderboards_of([curve("dm", (0.5,)), other], METHODS)
    with pytest.raises(ValueError, match="at least one curve"):
        leaderboards_of([], METHODS)


def test_winners_writes_what_distill_reads(tmp_path, capsys):
    curves = [curve("dm", (0.5, 0.6)), curve("frepo", (0.55, 0.55), own=(0.7, 0.8))]
    source, kept = tmp_path / "curves.json", tmp_path / "measured.json"
    source.write_bytes(readable_json({"curves": [dataclasses.asdict(c) for c in curves]}))
    assert main(["winners", str(source), "--out", str(kept)]) == 0
    said = capsys.readouterr().out
    assert "digits, ipc 1, soft labels" in said
    assert read_leaderboards(kept) == leaderboards_of(curves, METHODS)
    assert main(["winners", str(kept)]) == 2
    assert "must hold curves" in capsys.readouterr().err
    assert main(["winners"]) == 0
    with pytest.raises(ArtifactError, match="must hold measured curves"):
        read_leaderboards(source)


def test_what_ships_can_be_chosen():
    leaderboards = read_leaderboards()
    assert LEADERBOARDS_PATH.read_bytes() == readable_json({"leaderboards": msgspec.to_builtins(leaderboards)})
    for found in leaderboards:
        assert {e.recipe for e in found.entries} <= set(METHODS)
        for kind in ("hard", "soft"):
            for mark in found.time_budgets:
                words = ["--data", found.data, "--ipc", str(found.ipc), "--budget", f"{mark:g}"]
                chosen = chosen_method([*words, "--label-kind", kind])
                assert chosen.method.ipc == found.ipc
                for name, value in chosen.choice.entry.settings.items():
                    assert json.loads(msgspec.json.encode(getattr(chosen.method, name))) == value


# The command line.


@pytest.fixture
def measured(tmp_path):
    path = tmp_path / "measured.json"
    path.write_bytes(readable_json({"leaderboards": msgspec.to_builtins(BOARDS)}))
    return ["--measured", str(path)]


@pytest.fixture
def slow(monkeypatch):
    """A trial that says that a step takes 0.1 s, of as many steps as the recipe has."""
    real = run.estimate

    def told(distillation):
        found = real(distillation)
        return dataclasses.replace(found, seconds=found.steps / 10)

    monkeypatch.setattr(run, "estimate", told)


def test_distill_takes_the_winner_and_as_many_steps_as_fit(tmp_path, measured, slow, capsys):
    args = [*BASE, *measured, "--budget", "3s", "--out", str(tmp_path / "set")]
    assert main(args) == 0
    said = capsys.readouterr().out
    assert said.startswith("taking dm: 80.0 %")
    about = dd.Distilled.load(tmp_path / "set").provenance
    assert about["recipe"] == "dm"
    assert (about["parameters"]["real_batch"], about["parameters"]["image_momentum"]) == (4, 0.25)
    assert 0 < about["parameters"]["steps"] < 30
    assert about["steps_done"] == about["parameters"]["steps"]
    assert f"{about['steps_done']} of 20000 steps in the time budget of 3 s" in said
    assert {k: about["student"]["options"][k] for k in ("width", "depth")} == {"width": 4, "depth": 1}
    assert main([*args, "--resume"]) == 0
    assert "already finished" in capsys.readouterr().out
    again = [word if word != "3s" else "2s" for word in args]
    assert main([*again, "--resume"]) == 2
    assert "budget (was 3.0, now 2.0)" in capsys.readouterr().err


def test_a_budget_that_is_gone_takes_one_step_and_says_so(tmp_path, measured, slow, capsys):
    assert main([*BASE, *measured, "--budget", "0.01s", "--out", str(tmp_path / "set")]) == 0
    assert "the time budget of 0.01 s is too short" in capsys.readouterr().err
    assert dd.Distilled.load(tmp_path / "set").provenance["steps_done"] == 1


def test_what_the_user_sets_holds(tmp_path, measured):
    args = [*BASE, *measured, "--steps", "2", "--real-batch", "3", "--width", "8", "--out", str(tmp_path / "s")]
    assert main(args) == 0
    about = dd.Distilled.load(tmp_path / "s").provenance
    assert (about["steps_done"], about["parameters"]["real_batch"]) == (2, 3)
    assert {k: about["student"]["options"][k] for k in ("width", "depth")} == {"width": 8, "depth": 1}


def test_soft_labels_take_the_network_of_the_protocol(tmp_path, measured, capsys):
    args = [*BASE, *measured, "--label-kind", "soft", "--steps", "1", "--student-steps", "1"]
    assert main([*args, "--out", str(tmp_path / "set")]) == 0
    assert "taking frepo: 90.0 %" in capsys.readouterr().out
    options = dd.Distilled.load(tmp_path / "set").provenance["student"]["options"]
    assert (options["norm"], options["width"]) == ("none", 4)


def test_a_run_with_a_budget_goes_on_with_its_own_number_of_steps(tmp_path, measured, slow, monkeypatch, capsys):
    # Without validation, whose time on a busy machine may leave no time for a second step.
    args = [*BASE, *measured, "--budget", "5s", "--validation", "0", "--out", str(tmp_path / "set")]
    monkeypatch.setattr(sys, "argv", ["ddsdk", *args])
    write = dd.Distillation.state_dict
    calls = []

    def stopping(self):
        # The trial takes the first two, and the start of the run the third.
        calls.append(1)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return write(self)

    monkeypatch.setattr(dd.Distillation, "state_dict", stopping)
    assert main(args) == 75
    said = capsys.readouterr()
    assert "stopped after step 1; continue with: ddsdk distill" in said.err
    (steps,) = [line.split()[0] for line in said.out.splitlines() if "in the time budget of" in line]
    assert main([*args, "--resume"]) == 0
    assert "in the time budget of" not in capsys.readouterr().out
    assert dd.Distilled.load(tmp_path / "set").provenance["steps_done"] == int(steps)


def test_a_budget_of_a_named_recipe_is_the_time_of_its_steps(tmp_path, slow, capsys):
    small = ["--width", "4", "--depth", "1", "--real-batch", "4", "--augmentation", ""]
    args = [*BASE, "--recipe", "dm", *small, "--budget", "2s", "--out", str(tmp_path / "set")]
    assert main(args) == 0
    said = capsys.readouterr().out
    assert "steps in the time budget of 2 s" in said
    assert "taking" not in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--recipe", "dm", "--label-kind", "soft"], "label-kind must be left out with --recipe dm"),
        (["--recipe=dm", "--measured", "x.json"], "measured must be left out with --recipe dm"),
        (["--recipe", "random", "--budget", "5s"], "budget must be left out for random, which has no steps"),
        (["--recipe", "dm", "--budget", "5s", "--steps=3"], "left out if --steps is given"),
        (["--recipe", "dc", "--budget", "5s", "--students", "3"], "left out if --students is given"),
        (["--label-kind", "crisp"], "label-kind must be one of hard, soft, got 'crisp'"),
        (["--label_kind=crisp"], "label-kind must be one of hard, soft, got 'crisp'"),
        (["--budget", "soon"], "budget must be a time such as 60s"),
        (["--ipc", "0"], "ipc must be at least 1, got 0"),
        (["--measured", "missing.json"], "missing.json"),
    ],
)
def test_refusals(tmp_path, words, message, capsys):
    assert main([*BASE, "--out", str(tmp_path / "set"), *words]) == 2
    assert message in capsys.readouterr().err


def test_settings_that_a_method_does_not_have_are_refused(tmp_path, capsys):
    for settings in ({"no_such": 1}, {"real_batch": "many"}):
        odd = leaderboard("digits", 1, (1.0,), entry("dm", (1.0, 1.0, 0.5), settings=settings))
        path = tmp_path / "odd.json"
        path.write_bytes(readable_json({"leaderboards": msgspec.to_builtins([odd])}))
        assert main([*BASE, "--measured", str(path), "--out", str(tmp_path / "set")]) == 2
        assert "measured must have parameters of DM" in capsys.readouterr().err


def test_seconds_to_an_accuracy(tmp_path, capsys):
    first = BOARDS[0]
    hard = [(seconds, found.recipe) for seconds, found in times_to_accuracy(first, "hard", 0.65)]
    assert hard == [(31.0, "idc"), (46.0, "dsa"), (61.0, "dm")]
    assert [found.recipe for _, found in times_to_accuracy(first, "soft", 0.72)] == ["dsa", "idc"]
    assert times_to_accuracy(first, "hard", 0.985) == [], "a kernel machine trains no network"
    with pytest.raises(ValueError, match="accuracy must lie strictly between 0 and 1, got 65"):
        times_to_accuracy(first, "hard", 65)
    assert main(["winners", "--reach", "65"]) == 0
    assert "65 % of held-out training images" in capsys.readouterr().out
    assert main(["winners", "--reach", "0.65", "--out", str(tmp_path / "x.json")]) == 0
    assert main(["winners", "--reach", "120"]) == 2
    assert "reach must be a percentage between 0 and 100, got 120" in capsys.readouterr().err
