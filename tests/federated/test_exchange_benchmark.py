"""The benchmark of exchange: every method runs, and the figures of the table are those of equal bytes."""

from __future__ import annotations

import dataclasses
import json

import pytest

import ddsdk as dd
from benchmarks.federated import BENCHMARK, METHODS, rows
from benchmarks.kit import RunGroup
from ddsdk_integrations.federated import MetaKnowledge, ServerTrajectory, UpdateEncoding

SMALL = ["--data", "digits", "--images", "60", "--clients", "3", "--width", "4", "--alpha", "1.0", "--threads", "1"]
MATCHED = {"client": {"distil": dd.DM(ipc=2, steps=2, real_batch=8)}}
QUICK = {
    "one-shot dm": MATCHED,
    "feddm": MATCHED,
    "feddm remembering": MATCHED,
    "dosfl": {"client": {"distil": dd.DD(ipc=1, passes=3, steps=2, real_batch=8)}},
    "fedmk": {"client": {"distil": MetaKnowledge(ipc=2, steps=2, student_steps=2, real_batch=8)}},
    "fedsynth": {"client": {"encoding": UpdateEncoding(images=10, steps=2)}},
    "dynafed": {"options": {"trajectory": ServerTrajectory(rounds=1, span=1, ipc=1, student_steps=1, steps=1)}},
}


@pytest.mark.slow
def test_every_method_runs(tmp_path, monkeypatch):
    for name, method in METHODS.items():
        quick = dataclasses.replace(method, rounds=min(method.rounds, 2), **QUICK.get(name, {}))
        monkeypatch.setitem(METHODS, name, quick)
    assert BENCHMARK.run([*SMALL, "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "cells.json").read_text())["cells"]
    assert [cell["cell"]["method"] for cell in found] == list(METHODS)
    for cell in found:
        assert [point["rounds"] for point in cell["curve"]] == list(range(METHODS[cell["cell"]["method"]].rounds + 1))
        assert cell["curve"][-1].items() <= cell.items()
        assert 0 <= cell["accuracy"] <= 1
        assert 0 < cell["up"] < cell["bytes"] == cell["up"] + cell["down"]
        assert not any(report["refused"] for report in cell["reports"])
    assert (tmp_path / "bytes-1.0.png").stat().st_size > 5000


def group(method, *runs, shares=()):
    results = []
    for accuracies in runs:
        curve = [
            {"rounds": i, "accuracy": a, "up": 100_000 * i, "down": 100_000 * i, "bytes": 200_000 * i}
            for i, a in enumerate((0.1, *accuracies))
        ]
        reports = [{"share": share} for share in shares]
        results.append({**curve[-1], "curve": curve, "seconds": 2.0, "reports": reports})
    return RunGroup(method, {"alpha": 0.1}, results)


def test_figures_are_those_of_the_last_round_and_of_equal_bytes():
    groups = [
        group("fedavg", (0.3, 0.6, 0.5), (0.4, 0.7, 0.7)),
        group("feddm", (0.8, 0.7), (0.9, 0.8), shares=(0.25, 0.5)),
    ]
    table = BENCHMARK.table(rows(groups), groups).splitlines()
    end = "0.300 ± 0.000 | 0.300 ± 0.000 | 0.600 ± 0.000 | 60.0 ± 14.1 | – | 2 ± 0 |"
    assert table[2] == f"| fedavg | 0.1 | 3 | 60.0 ± 14.1 | {end}"
    # After as many bytes, two rounds, FedAvg had 60 and 70 %.
    end = "0.200 ± 0.000 | 0.200 ± 0.000 | 0.400 ± 0.000 | 65.0 ± 7.1 | 50 | 2 ± 0 |"
    assert table[3] == f"| feddm | 0.1 | 2 | 75.0 ± 7.1 | {end}"
    # Without FedAvg there is nothing to compare with.
    assert "fedavg" not in BENCHMARK.table(rows(groups[1:]), groups[1:])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--methods", "fedsgd"], "methods must be among fedavg"),
        (["--alpha", "0"], "alpha must be positive and finite, got 0.0"),
        (["--clients", "0"], "clients must be at least 1"),
    ],
)
def test_bad_options_end_with_a_message(tmp_path, capsys, change, message):
    assert BENCHMARK.run([*SMALL, "--out", str(tmp_path), *change]) == 2
    assert message in capsys.readouterr().err
