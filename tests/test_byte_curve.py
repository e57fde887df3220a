"""Rate-utility curves: points are measured once, on images that did not choose the codec."""

from __future__ import annotations

import json
from itertools import product

import pytest

import ddsdk as dd
from ddsdk.cli import main
from ddsdk.experiments import (
    ByteCurveConfig,
    BytePoint,
    EvaluationCost,
    best_points,
    byte_curve,
    byte_table,
    frontier,
    measure_bytes,
)

COST = EvaluationCost(networks=2, epochs=1, width=4)


def point(recipe, budget, size, accuracy):
    return BytePoint(recipe=recipe, set="s", budget=budget, bytes=size, images=1, codec="c", accuracies=(accuracy,))


POINTS = [
    point("dm", 100, 90, 0.5),
    point("dm", 100, 80, 0.4),
    point("dm", 200, 190, 0.45),
    point("dm", 300, 290, 0.7),
    point("idc", 100, 95, 0.55),
    point("idc", 300, 300, 0.6),
    BytePoint(recipe="mtt", set="s", budget=100),
]


def test_a_curve_has_the_best_set_of_each_method_and_never_falls():
    curves = best_points(POINTS)
    assert {name: [(p.budget, p.mean) for p in curve] for name, curve in curves.items()} == {
        "idc": [(100, 0.55), (300, 0.6)],
        "dm": [(100, 0.5), (300, 0.7)],
    }
    assert byte_table(POINTS).count("\n") == 6


def test_the_frontier_has_the_points_that_nothing_smaller_reaches():
    measured = [p for p in POINTS if p.accuracies]
    slow = [p for p in measured if not any(q.bytes <= p.bytes and q.mean >= p.mean and q is not p for q in measured)]
    assert frontier(POINTS) == sorted(slow, key=lambda p: p.bytes)


def test_points_are_measured_once_on_images_that_chose_nothing(tmp_path, monkeypatch):
    train = dd.load("digits")
    sets = [dd.distill(dd.BASELINES["random"](ipc=ipc), train) for ipc in (1, 2)]
    config = ByteCurveConfig(train=train, budgets=(2, 250, 500), cost=COST)
    choosing, measuring = config.held_out_halves()
    rows = [{tuple(image.flatten().tolist()) for image in half.images} for half in (choosing, measuring)]
    assert not rows[0] & rows[1]
    seen = []
    steps = byte_curve.compression_steps
    monkeypatch.setattr(
        byte_curve, "compression_steps", lambda d, b, held, **o: seen.append(held) or steps(d, b, held, **o)
    )
    first = list(measure_bytes(tmp_path, sets, config))
    assert [(p.set, p.budget) for p in first] == list(product([s.content_id for s in sets], (2, 250, 500)))
    assert [bool(p.accuracies) for p in first] == [False, True, True] * 2
    assert all(p.bytes <= p.budget and len(p.accuracies) == 2 for p in first if p.accuracies)
    assert all(len(held) == len(choosing) for held in seen)
    assert len(seen) == 6
    assert list(measure_bytes(tmp_path, sets, config)) == first
    assert len(seen) == 6


@pytest.mark.parametrize("budgets", [(), (0, 100), (200, 100), (100, 100)])
def test_budgets_that_are_not_increasing_are_refused(budgets):
    with pytest.raises(ValueError, match="bytes must be positive numbers in increasing order"):
        ByteCurveConfig(train=dd.load("digits"), budgets=budgets)


def test_the_command_draws_the_curves(tmp_path, capsys):
    dd.distill(dd.BASELINES["random"](ipc=1), dd.load("digits")).save(tmp_path / "a")
    words = ["curve", "--by", "bytes", "--sets", str(tmp_path / "a"), "--data", "digits", "--bytes", "250,500"]
    quick = ["--judge-epochs", "1", "--judge-width", "4", "--out", str(tmp_path / "plot")]
    assert main([*words, *quick, "--codecs", "cosine"]) == 0
    assert {p.name for p in (tmp_path / "plot").glob("bytes.*")} == {"bytes.json", "bytes.md", "bytes.png", "bytes.svg"}
    points = json.loads((tmp_path / "plot/bytes.json").read_text())["points"]
    assert [point["codec"].split(",")[0] for point in points] == ["cosine", "cosine"]
    capsys.readouterr()
    assert main(["curve", "--by", "bytes", "--data", "digits", "--out", str(tmp_path / "plot")]) == 2
    assert "sets must be given with --by bytes" in capsys.readouterr().err
