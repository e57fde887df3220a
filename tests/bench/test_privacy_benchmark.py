"""The benchmark of private sets: what a private cell spends, the order of rows, published figures and refusals."""

from __future__ import annotations

import pytest
import torch

import ddsdk as dd
from benchmarks.kit import RunConfig, RunGroup

pytest.importorskip("opacus")

from benchmarks import privacy
from benchmarks.privacy import BENCHMARK, METHODS, ExperimentConfig, Method, measure
from ddsdk_integrations.privacy import DPKIP, NDPDC

NARROW = ExperimentConfig(width=4, judge_width=4, networks=1)


@pytest.fixture
def parts(digits):
    train, test = digits
    return train, test.subset(torch.arange(40))


@pytest.mark.parametrize(
    ("method", "epsilon", "paid", "kernel"),
    [
        (Method(make=lambda ipc: NDPDC(ipc=ipc, releases=2, steps=2)), 2.0, 2, False),
        (Method(make=lambda ipc: NDPDC(ipc=ipc, releases=2, steps=2), private=False), None, 2, False),
        (Method(make=lambda ipc: DPKIP(ipc=ipc, steps=1)), 2.0, 1, True),
        (Method(make=lambda ipc: dd.BASELINES["random"](ipc=ipc), private=False), None, 0, False),
    ],
    ids=["private", "without noise", "kernel", "open"],
)
def test_a_set_spends_what_its_cell_says(monkeypatch, parts, method, epsilon, paid, kernel):
    monkeypatch.setattr(privacy, "METHODS", {"made": method})
    found = measure(RunConfig("made", 0, {"ipc": 1, "epsilon": epsilon}), NARROW, *parts)
    assert (found["spent"] is None) == (epsilon is None)
    if epsilon is not None:
        assert 0.9 * epsilon < found["spent"] <= epsilon
    assert bool(found["releases"]) == (paid > 0)
    assert ("kernel" in found) == kernel
    assert len(found["accuracy"]) == 1 and 0 <= found["accuracy"][0] <= 1


def test_a_classifier_spends_the_same_budget(monkeypatch, parts):
    monkeypatch.setattr(privacy, "METHODS", {"dp-sgd": Method(make=lambda _: {"steps": 2}, sizes=(0,))})
    found = measure(RunConfig("dp-sgd", 0, {"ipc": 0, "epsilon": 2.0}), NARROW, *parts)
    assert 1.8 < found["spent"] <= 2 and len(found["releases"]) == 1


def test_methods_are_measured_where_they_stand_for_something(tmp_path):
    options = BENCHMARK.command()(data="digits", out=tmp_path, ipc="10,50", epsilon="1,10")
    cells = {(c.method, c["ipc"], c["epsilon"]) for c in BENCHMARK.cells(options)}
    assert {c[1:] for c in cells if c[0] == "dp-sgd"} == {(0, 1.0), (0, 10.0)}
    assert {c[1:] for c in cells if c[0] == "psg"} == {(10, 1.0), (10, 10.0)}
    assert {c[1:] for c in cells if c[0] == "random images"} == {(10, None), (50, None)}
    assert {c[0] for c in cells} == set(METHODS)
    for cell in BENCHMARK.cells(options):
        assert BENCHMARK.about(cell, NARROW)


def test_rows_stand_by_budget_and_accuracy_beside_published_figures():
    groups = [
        RunGroup("dm", {"ipc": 10, "epsilon": None}, [{"accuracy": [0.9]}]),
        RunGroup("psg", {"ipc": 10, "epsilon": 1.0}, [{"accuracy": [0.7]}, {"accuracy": [0.6]}]),
        RunGroup("ndpdc", {"ipc": 10, "epsilon": 1.0}, [{"accuracy": [0.75, 0.79], "kernel": [0.5]}]),
        RunGroup("ndpdc", {"ipc": 10, "epsilon": 10.0}, [{"accuracy": [0.8]}]),
    ]
    lines = BENCHMARK.table(BENCHMARK.rows(groups), groups).splitlines()
    assert [line.split(" | ")[:5] for line in lines[2:]] == [
        ["| ndpdc", "10", "1.0", "77.0 ± 2.8", "77.7"],
        ["| psg", "10", "1.0", "65.0 ± 7.1", "68.5"],
        ["| ndpdc", "10", "10.0", "80.0", "–"],
        ["| dm", "10", "–", "90.0", "84.6"],
    ]
    assert BENCHMARK.plot.points(groups[0]) == [(None, 90.0)]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--epsilon", "0", "--methods", "ndpdc", "--ipc", "10"], "epsilon must be positive and finite, got 0.0"),
        (["--delta", "2"], "delta must lie strictly between 0 and 1, got 2.0"),
        (["--networks", "0"], "networks must be at least 1, got 0"),
    ],
)
def test_bad_options_are_refused(tmp_path, capsys, more, message):
    assert BENCHMARK.run(["--data", "digits", "--out", str(tmp_path), "--images", "3", *more]) == 2
    assert message in capsys.readouterr().err
