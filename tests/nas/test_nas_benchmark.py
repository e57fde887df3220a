"""The benchmark: every row runs on a small setting, what comes with the package is sound, and the tables say it."""

from __future__ import annotations

import json
import math
import sys
from importlib.resources import files

import pytest

import ddsdk as dd
from ddsdk_integrations.nas import Cell, Ranking
from ddsdk_integrations.nas import __main__ as command
from ddsdk_integrations.nas import benchmark as rows
from ddsdk_integrations.nas.benchmark import METHODS, STUDENTS, Method, cached_truth, described
from ddsdk_integrations.nas.narrow import Setting, plain
from ddsdk_integrations.nas.table import at_cost, lines, markdown

TINY = {
    **{name: method for name, method in METHODS.items() if method.make is None},
    "random": METHODS["random"],
    "dm": Method(
        make=lambda ipc: dd.DM(ipc=ipc, steps=2, real_batch=4, augmentation=""), largest={"one": 9, "many": 9}
    ),
}
SMALL = ("--candidates", "5", "--train", "10", "--validation", "5", "--epochs", "1")


def run(monkeypatch, tmp_path, *more):
    for module in (rows, command):
        monkeypatch.setattr(module, "METHODS", TINY)
    monkeypatch.setattr(sys, "argv", ["x", "--data", "digits", "--out", str(tmp_path), *SMALL, *more])
    return command.main()


def test_every_row_is_measured_once(monkeypatch, tmp_path, capsys):
    more = ("--ipc", "2", "--steps", "2", "--early", "1,2")
    assert run(monkeypatch, tmp_path, *more) == 0
    table = (tmp_path / "table.md").read_text()
    for name in (*TINY, "truth of another seed", "whole training", "early stopping + synflow"):
        assert f"| {name} |" in table
    assert "| dm | 2 | one | 0 | 2 |" in table and "| dm | 2 | many | 0 | 2 |" in table
    assert len(list((tmp_path / "cells").iterdir())) == 1 + 4 + 2 + 1 + 2
    assert (tmp_path / "cost.png").stat().st_size > 10_000
    capsys.readouterr()
    assert run(monkeypatch, tmp_path, *more) == 0
    assert capsys.readouterr().out == table + "\n"


def test_cells_are_judged_by_a_table(monkeypatch, tmp_path):
    setting = Setting(space="cells", candidates=5, train=10, validation=5, epochs=1)
    train, test = dd.load_pair("digits")
    chosen = setting.chosen(setting.parts(train, test).train)
    assert len({Cell.parse(one.name).computation for one in chosen}) == 5
    table = tmp_path / "table.csv"
    told = "".join(f"{one.name},{10 * i}\n" for i, one in enumerate(chosen))
    table.write_text(f"arch,cifar10\n{told}")
    more = ("--space", "cells", "--accuracies", str(table), "--methods", "parameters")
    assert run(monkeypatch, tmp_path / "out", *more) == 0
    found = (tmp_path / "out" / "table.md").read_text()
    assert "| parameters |" in found and "truth of another seed" not in found


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--methods", "magic"), "methods must be among"),
        (("--students", "few"), "students must be among"),
        (("--accuracies", "x.csv"), "accuracies must be None but for cells"),
        (("--processes", "0"), "processes must be at least 1"),
        (("--side", "8"), "side must be at least 16"),
        (("--validation", "1000"), "train must leave"),
        (("--early", ""), "early must hold"),
    ],
)
def test_bad_options_are_refused(monkeypatch, tmp_path, capsys, more, message):
    assert run(monkeypatch, tmp_path, *more) == 2
    assert message in capsys.readouterr().err


def test_every_method_of_the_table_can_be_made():
    for name, method in METHODS.items():
        if method.make is not None:
            assert described(rows.Cell(method=name, ipc=10))["ipc"] == 10
        assert bool(method.largest) == (method.make is not None)
        assert set(method.largest) <= {"", *STUDENTS}


def test_smaller_images_keep_the_facts_of_the_data():
    train, test = dd.load_pair("digits")
    facts = {"name": "scans", "pictures": False, "mirror_safe": True}
    names = {"class_names": train.class_names, "preprocess": train.preprocess}
    marked = [dd.RealData(data.images, data.labels, **names, **facts) for data in (train, test)]
    for part in Setting(candidates=3, train=10, validation=5, epochs=1).parts(*marked):
        assert {fact: getattr(part, fact) for fact in facts} == facts


def test_no_image_has_two_parts():
    train, test = dd.load_pair("digits")
    parts = Setting(candidates=3, train=10, validation=5, epochs=1).parts(train, test)
    told = [{image.numpy().tobytes() for image in part.images} for part in parts]
    assert len(parts.train) == 100 and len(parts.held_out) == 50
    assert not told[0] & told[1]
    assert parts.train.image_shape == (1, 16, 16)
    assert abs(float(parts.train.batch(parts.train.index_of_class(0)).x.mean())) < 1


def test_the_truth_of_the_package_is_that_of_its_candidates():
    kept = json.loads((files("ddsdk_integrations.nas") / "fashion_mnist_truth.json").read_text())
    assert kept["setting"] == json.loads(json.dumps(plain(Setting())))
    ranking = Ranking.from_dict(kept["ranking"])
    space = Setting().space_of(
        dd.RealData(
            dd.load("digits").images.repeat(1, 1, 2, 2),
            dd.load("digits").labels,
            class_names=tuple("0123456789"),
            preprocess=dd.Preprocess.unit(1),
        )
    )
    chosen = space.sample(Setting().candidates, dd.generator("nas", "candidates"))
    assert set(ranking.scores) == {one.name for one in chosen}
    assert len(ranking.scores) == 100 and ranking.seeds == 2
    test = ranking.by("test")
    assert all(0.05 < value < 0.95 for values in test.scores.values() for value in values)
    assert kept["command"].startswith("python -m ddsdk_integrations.nas")
    assert cached_truth(Setting(), *dd.load_pair("digits")) is None


def found_cell(method, scores, seconds=1.0, before=0.0, test=None, **cell):
    names = [f"c{i}" for i in range(len(scores))]
    extra = {} if test is None else {"test": dict(zip(names, test, strict=True))}
    told = {"method": method, "ipc": 0, "students": "", "seed": 0, "steps": 0, **cell}
    made = Ranking(
        name=method, scores=dict(zip(names, scores, strict=True)), seconds=seconds, before=before, extra=extra
    )
    return {"cell": told, "setting": {}, "classes": 10, "ranking": made.to_dict()}


def test_a_row_is_compared_with_early_stopping_at_its_cost():
    order = [(i / 20,) for i in range(20)]
    truth = found_cell("truth", [one * 2 for one in order], 200.0, test=[one * 2 for one in order])
    poor = [(i % 5 / 10,) for i in range(20)]
    early = [found_cell("early stopping", s, c, steps=k) for s, c, k in ((poor, 1.0, 1), (order, 100.0, 9))]
    dear = found_cell("dm", order, 1.0, 9.0, ipc=10, students="one", steps=1)
    table = markdown([truth, *early, dear])
    row, learned = (line for line in table.splitlines() if line.startswith("| dm |"))
    assert row != learned
    low = lines([truth, *early, dear])
    start = next(one for one in low if one.cell["steps"] == 1 and one.cell["method"] == "early stopping")
    middle = (start.verdict.spearman.value + 1) / 2
    # Ten of a hundred seconds is half way on a logarithmic scale.
    better, cell = row.split(" | ")[-1], row.split(" | ")[-2]
    assert cell == f"{middle:.2f}"
    assert better.startswith(f"+{1 - start.verdict.spearman.value:.2f} (+")
    assert "20 candidates, of which the top are 4" in table
    # The truth of candidate i is i / 20, and twice chance is 0.2.
    assert "15 candidates whose truth is above 20 %" in table


def test_costs_lie_on_a_logarithmic_line():
    curve = [(100.0, 1.0), (1.0, 0.0)]
    assert at_cost(curve, 10.0) == pytest.approx(0.5)
    assert at_cost(curve, 1.0) == 0 and at_cost(curve, 100.0) == 1
    assert at_cost(curve, 0.5) is None and at_cost(curve, 101.0) is None
    assert not math.isnan(at_cost([(1.0, 0.0), (1.0, 0.5)], 1.0))


def test_tables_need_one_truth():
    with pytest.raises(ValueError, match="one truth"):
        lines([])
