"""The command of back doors: cells are kept, thresholds come from other sets, tables say what was measured."""

from __future__ import annotations

import sys

import pytest

import ddsdk as dd
from ddsdk_integrations.robustness.backdoor import Inversion, benchmark
from ddsdk_integrations.robustness.backdoor import __main__ as command
from ddsdk_integrations.robustness.backdoor.__main__ import Benchmark
from ddsdk_integrations.robustness.backdoor.benchmark import ATTACKS, METHODS, Cell, Setting
from ddsdk_integrations.robustness.backdoor.table import detections, markdown

TINY = ["--steps", "2", "--ipc", "2", "--width", "2", "--judge-width", "2", "--networks", "1"]


def run(monkeypatch, tmp_path, *more):
    asked = ["--data", "digits", "--out", str(tmp_path), "--images", "30", "--held-out", "0.3", *TINY]
    monkeypatch.setattr(sys, "argv", ["x", *asked, *more])
    return command.main()


def test_cells_are_measured_once_and_drawn(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(benchmark, "_INVERSION", Inversion(steps=2, batch=2))
    more = ("--methods", "dm", "--attacks", "none,white,to the label", "--fractions", "0.05,0.2")
    more += ("--seeds", "0", "--calibration", "1", "--few", "1")
    assert run(monkeypatch, tmp_path, *more) == 0
    table = (tmp_path / "table.md").read_text()
    for row in ("| dm | none | 0 |", "| dm | white | 5 |", "| dm | white | 20 |", "| dm | to the label | 20 |"):
        assert row in table
    assert "| dm | white | pasting |" in table
    assert len(list((tmp_path / "cells").iterdir())) == 6
    for picture in ("success.png", "roc.png"):
        assert (tmp_path / picture).stat().st_size > 10_000
    capsys.readouterr()
    assert run(monkeypatch, tmp_path, *more) == 0
    assert capsys.readouterr().out == table + "\n"


def cells_of(tmp_path, **more):
    return [question.cell for question in Benchmark(data="digits", out=tmp_path, **more).questions(None)]


def test_every_cell_is_asked_once_and_thresholds_have_seeds_of_their_own(tmp_path):
    cells = cells_of(tmp_path)
    assert len(cells) == len(set(cells))
    scanned = [cell for cell in cells if cell.scanned]
    honest = [cell.seed for cell in scanned if cell.attack == "none"]
    assert sorted(honest) == list(range(20))
    assert {cell.seed for cell in scanned if cell.attack != "none"} == set(range(10))
    assert {cell.method for cell in cells} == set(METHODS)
    assert {cell.attack for cell in cells} == set(ATTACKS)


def test_every_method_of_the_table_can_be_made():
    for make in METHODS.values():
        assert make(Setting()).ipc == 10


def cell(attack, seed, score, *, net=0.0, pointed=0, scanned=True):
    told = Cell(method="dm", attack=attack, fraction=0.0 if attack == "none" else 0.05, seed=seed, scanned=scanned)
    tests = ("inversion", "pasting", "spectrum")
    return {
        "cell": vars(told),
        "accuracy": 0.9,
        "stamped": net + 0.01,
        "plain": 0.01,
        "net": net,
        "scores": dict.fromkeys(tests, score) if scanned else None,
        "pointed": dict.fromkeys(tests, pointed) if scanned else None,
    }


CELLS = [
    *(cell("none", seed, score) for seed, score in ((10, 1.0), (11, 2.0))),
    *(cell("none", seed, score) for seed, score in ((0, 0.5), (1, 2.5))),
    cell("white", 0, 3.0, net=0.4),
    cell("white", 1, 1.5, net=0.2),
    cell("white", 2, 2.2, net=0.0, pointed=4),
    cell("white", 3, 0.0, net=0.3, scanned=False),
]


def test_thresholds_come_from_sets_that_are_not_reported():
    (found, *_) = detections(CELLS, {10, 11})
    assert (found.threshold, found.honest, found.false_alarms) == (2.0, 2, 1)
    assert (found.attacked, found.found, found.right) == (3, 2, 1)
    assert (found.working, found.found_working) == (2, 1)
    # Six pairs of an attacked and an honest set; the attacked one is higher in four.
    assert found.auc == pytest.approx(4 / 6)


def test_the_table_has_a_row_for_each_attack_and_test():
    table = markdown(CELLS, {10, 11})
    assert "| dm | none | 0 | 90.0 | 1.0 | 1.0 | 0.0 (0 to 0) | 2 |" in table
    assert "| dm | white | 5 | 90.0 | 23.5 | 1.0 | 22.5 (0 to 40) | 4 |" in table
    assert "| dm | white | pasting | 0.67 | 2.00 | 2 of 3 | 1 of 2 | 1 | 1 of 2 |" in table


@pytest.mark.parametrize(
    ("more", "rule"),
    [
        (("--attacks", "sneaky"), "attacks must be among"),
        (("--methods", "mtt"), "methods must be among"),
        (("--calibration", "0"), "calibration must share no seed with seeds"),
        (("--fractions", "2"), "fraction must be 0 without an attack"),
        (("--steps", "0"), "steps must be at least 1"),
    ],
)
def test_bad_options_are_refused(monkeypatch, tmp_path, capsys, more, rule):
    assert run(monkeypatch, tmp_path, *more) == 2
    assert rule in capsys.readouterr().err


def test_a_cell_knows_what_its_share_means():
    with pytest.raises(ValueError, match="fraction must be 0 without an attack"):
        Cell(method="dm", attack="none", fraction=0.1, seed=0, scanned=False)


def test_the_trigger_of_an_honest_set_is_the_white_corner():
    from ddsdk_integrations.robustness.backdoor.benchmark import measure

    train, test = dd.load_pair("digits")
    setting = Setting(ipc=1, steps=1, width=2, judge_width=2, networks=1)
    found = measure(Cell(method="dm", attack="none", fraction=0.0, seed=0, scanned=False), setting, train, test)
    assert found["patch"] == [1.0] * 4
    assert found["scores"] is None
    assert found["net"] == pytest.approx(found["stamped"] - found["plain"])
