"""The benchmark of architecture search: images and candidates, the known truth, which cells there are, and costs."""

from __future__ import annotations

import dataclasses
import math

import pytest

import ddsdk as dd
from benchmarks import nas
from benchmarks.kit import RunGroup
from benchmarks.nas import BENCHMARK, METHODS, STUDENTS, Method, at_cost
from benchmarks.nas_setting import KNOWN_TRUTH, ExperimentConfig
from ddsdk.foundation import strict_json
from ddsdk_integrations.nas import Cell, Ranking

SMALL = ["--data", "digits", "--candidates", "5", "--train", "10", "--validation", "5", "--epochs", "1"]
TINY = ExperimentConfig(candidates=3, train=10, validation=5, epochs=1)


@pytest.mark.slow
def test_every_kind_of_row_is_measured(monkeypatch, tmp_path):
    dm = Method(make=lambda ipc: dd.DM(ipc=ipc, steps=2, real_batch=4, augmentation=""), largest={"one": 9, "many": 9})
    monkeypatch.setattr(nas, "METHODS", {**METHODS, "dm": dm})
    methods = "parameters,naswot,gradient norm,early stopping,truth of another seed,whole training,random,dm"
    more = ["--methods", f"{methods},early stopping + synflow", "--ipc", "2", "--steps", "2", "--early", "1,2"]
    assert BENCHMARK.run([*SMALL, "--out", str(tmp_path), "--seeds", "0,1", *more]) == 0
    lines = [line.strip("| ").split(" | ") for line in (tmp_path / "table.md").read_text().splitlines()]
    assert lines[0][:7] == ["method", "ipc", "students", "steps", "early", "seed", "Spearman, all"]
    found = [tuple(line[:6]) for line in lines[2:] if len(line) == len(lines[0])]
    none = "–"
    # A set has a row for each seed; nothing else depends on it.
    assert found == [
        *((name, none, none, none, none, none) for name in ("parameters", "naswot", "gradient norm")),
        *(("early stopping", none, none, none, steps, none) for steps in "12"),
        *((name, none, none, none, none, none) for name in ("truth of another seed", "whole training")),
        *(("random", "2", none, "2", none, seed) for seed in "01"),
        *(("dm", "2", students, "2", none, seed) for students in ("one", "many") for seed in "01"),
        ("early stopping + synflow", none, none, none, "1", none),
    ]


def test_cells_are_judged_by_a_table(tmp_path):
    config = dataclasses.replace(TINY, space="cells", candidates=5)
    train, test = dd.load_pair("digits")
    chosen = config.chosen(config.parts(train, test).train)
    assert len({Cell.parse(one.name).computation for one in chosen}) == 5
    table = tmp_path / "table.csv"
    table.write_text("arch,cifar10\n" + "".join(f"{one.name},{10 * i}\n" for i, one in enumerate(chosen)))
    more = ["--space", "cells", "--accuracies", str(table), "--methods", "parameters,truth of another seed"]
    assert BENCHMARK.run([*SMALL, "--out", str(tmp_path / "out"), *more]) == 0
    found = (tmp_path / "out" / "table.md").read_text()
    # Accuracies of a table have no second seed.
    assert "| parameters |" in found and "truth of another seed" not in found


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--methods", "magic"), "methods must be among"),
        (("--students", "few"), "students must be among one, many, got 'few'"),
        (("--accuracies", "x.csv"), "accuracies must be empty but for cells"),
        (("--processes", "0"), "processes must be at least 1"),
        (("--side", "8"), "side must be at least 16"),
        (("--validation", "1000"), "train must leave"),
        (("--early", ""), "early must hold"),
    ],
)
def test_bad_options_are_refused(tmp_path, capsys, more, message):
    assert BENCHMARK.run([*SMALL, "--out", str(tmp_path), *more]) == 2
    assert message in capsys.readouterr().err


def test_cells_are_those_that_a_method_is_measured_for(tmp_path):
    asked = {"ipc": "10,50", "early": "5,20", "seeds": "0"}
    cells = BENCHMARK.cells(BENCHMARK.command()(data="digits", out=tmp_path, **asked))
    at = {name: [tuple(c.at.values()) for c in cells if c.method == name] for name in METHODS}
    assert at["random"] == [(10, None, 20, None), (50, None, 20, None)]
    assert at["herding"] == [(10, None, 20, None)]
    assert at["dm"] == [(10, "one", 20, None), (10, "many", 20, None), (50, "one", 20, None)]
    assert at["early stopping"] == [(None, None, None, 5), (None, None, None, 20)]
    assert at["early stopping + synflow"] == [(None, None, None, 5)]
    assert at["synflow"] == [(None, None, None, None)]
    for cell in cells:
        assert BENCHMARK.about(cell, TINY).get("ipc") == cell["ipc"]
    assert all(set(method.largest) <= {None, *STUDENTS} for method in METHODS.values())


def test_smaller_images_keep_the_facts_of_the_data():
    facts = {"name": "scans", "pictures": False, "mirror_safe": True}
    marked = []
    for data in dd.load_pair("digits"):
        names = {"class_names": data.class_names, "preprocess": data.preprocess}
        marked.append(dd.RealData(data.images, data.labels, **names, **facts))
    for part in TINY.parts(*marked):
        assert {fact: getattr(part, fact) for fact in facts} == facts


def test_no_image_has_two_parts():
    parts = TINY.parts(*dd.load_pair("digits"))
    told = [{image.numpy().tobytes() for image in part.images} for part in parts]
    assert len(parts.train) == 100 and len(parts.held_out) == 50
    assert not told[0] & told[1]
    assert parts.train.image_shape == (1, 16, 16)
    assert abs(float(parts.train.batch(parts.train.index_of_class(0)).x.mean())) < 1


def test_the_known_truth_is_that_of_its_candidates(monkeypatch):
    kept = strict_json(KNOWN_TRUTH.read_bytes())
    own = dataclasses.asdict(ExperimentConfig())
    assert {name: tuple(v) if isinstance(v, list) else v for name, v in kept["setting"].items()} == {
        name: own[name] for name in kept["setting"]
    }
    # Fields that no truth depends on.
    free = {"repeats", "accuracies", "column", "fresh_truth", "device", "processes"}
    assert set(own) - set(kept["setting"]) == free
    ranking = Ranking.from_dict(kept["ranking"])
    train, test = dd.load_pair("digits")
    shown = ExperimentConfig(train=1, validation=1).parts(train, test).train
    assert set(ranking.scores) == {one.name for one in ExperimentConfig().chosen(shown)}
    assert len(ranking.scores) == 100 and ranking.seeds == 2
    assert all(0.05 < value < 0.95 for values in ranking.by("test").scores.values() for value in values)
    assert kept["command"].startswith("python -m benchmarks.nas")
    assert ExperimentConfig().known_truth(train, test) is None
    for part, name in ((train, "train"), (test, "test")):
        monkeypatch.setattr(part, "computed_once", lambda key, compute, of=kept[name]: of)
    assert ExperimentConfig().known_truth(train, test) == ranking
    assert ExperimentConfig(repeats=2).known_truth(train, test) == ranking
    assert ExperimentConfig(lr=0.1).known_truth(train, test) is None


def verdict(value, total, before=0.0, candidates=20):
    keys = ("spearman", "kendall", "top_spearman", "top_kendall")
    estimates = {key: [value, value - 0.1, value + 0.1] for key in keys}
    costs = {"seconds": total - before, "before": before, "total": total}
    return {
        "candidates": candidates,
        "top": 4,
        **estimates,
        "regret": 0.0,
        "regret_of_five": 0.0,
        **costs,
        "edge": None,
    }


def group(method, *results, ipc=None):
    return RunGroup(method, {"ipc": ipc, "students": None, "steps": None, "early": None}, list(results))


def test_a_row_is_compared_with_early_stopping_at_its_cost():
    groups = [
        group("early stopping", {"all": verdict(0.2, 1.0), "learned": None}),
        group("early stopping", {"all": verdict(0.8, 100.0), "learned": None}),
        group("truth of another seed", {"all": verdict(0.9, 10.0), "learned": None}),
        group(
            "dm",
            {"seed": 0, "all": {**verdict(0.7, 10.0, 9.0), "edge": [0.1, 0.05, 0.2]}, "learned": verdict(0.6, 10.0)},
            {"seed": 1, "all": verdict(0.7, 1000.0), "learned": verdict(0.5, 1000.0, candidates=15)},
            ipc=10,
        ),
    ]
    table = BENCHMARK.table(BENCHMARK.rows(groups), groups)
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| ")]
    heads = rows[0]
    found = [dict(zip(heads, row, strict=True)) for row in rows[2:7]]
    # Ten of a hundred seconds is half way on a logarithmic scale; a thousand is outside.
    assert [row["early stopping at that cost"] for row in found] == ["–", "–", "–", "0.50", "–"]
    assert [row["edge over as many steps"] for row in found] == ["–", "–", "–", "+0.10 (+0.05 to +0.20)", "–"]
    assert [row["set, s"] for row in found] == ["–", "–", "–", "9", "–"]
    assert [row["seed"] for row in found] == ["–", "–", "–", "0", "1"]
    assert found[3]["Spearman, all"] == "0.70 (0.60 to 0.80)"
    assert "20 candidates, 4 of them in the top group" in table
    assert "15 candidates with a true accuracy above 2 times chance" in table
    assert [row[0] for row in rows[9:]] == ["dm", "dm"]
    assert BENCHMARK.plot.points(BENCHMARK.rows(groups)[3]) == [(10.0, 0.7)]


def test_costs_lie_on_a_logarithmic_line():
    curve = [(100.0, 1.0), (1.0, 0.0)]
    assert at_cost(curve, 10.0) == pytest.approx(0.5)
    assert at_cost(curve, 1.0) == 0 and at_cost(curve, 100.0) == 1
    assert at_cost(curve, 0.5) is None and at_cost(curve, 101.0) is None
    assert not math.isnan(at_cost([(1.0, 0.0), (1.0, 0.5)], 1.0))
