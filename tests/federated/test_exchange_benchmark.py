"""The benchmark's command, on digits and with few steps."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

import ddsdk as dd
from ddsdk_integrations.federated import Encoding, MetaKnowledge, Trajectory, fed_synth
from ddsdk_integrations.federated import benchmark as module
from ddsdk_integrations.federated.__main__ import main
from ddsdk_integrations.federated.benchmark import METHODS
from ddsdk_integrations.federated.table import markdown

SMALL = ["--data", "digits", "--images", "60", "--clients", "3", "--width", "4", "--alpha", "1.0", "--threads", "1"]
QUICK = {
    "one-shot dm": dd.DM(ipc=2, steps=2, real_batch=8),
    "feddm": dd.DM(ipc=2, steps=2, real_batch=8),
    "feddm remembering": dd.DM(ipc=2, steps=2, real_batch=8),
    "dosfl": dd.DD(ipc=1, passes=3, steps=2, real_batch=8),
    "fedmk": MetaKnowledge(ipc=2, steps=2, student_steps=2, real_batch=8),
}


@pytest.fixture
def quick(monkeypatch):
    """All methods of the table, with fewer rounds and steps."""
    made = {name: dataclasses.replace(method, rounds=min(method.rounds, 2)) for name, method in METHODS.items()}
    for name, recipe in QUICK.items():
        made[name] = dataclasses.replace(made[name], client={"distil": recipe})
    made["fedsynth"] = dataclasses.replace(
        made["fedsynth"],
        strategy=lambda task, seed: fed_synth(task, seed=seed),
        client={"encoding": Encoding(images=10, steps=2)},
    )
    short = Trajectory(rounds=1, span=1, ipc=1, student_steps=1, steps=1)
    made["dynafed"] = dataclasses.replace(
        made["dynafed"], strategy=lambda task, seed: module.DynaFed(task, short, seed=seed, **module._AVERAGING)
    )
    for name, method in made.items():
        monkeypatch.setitem(METHODS, name, method)


def run(monkeypatch, *args):
    monkeypatch.setattr("sys.argv", ["benchmark", *args])
    return main()


def test_the_command_writes_table_cells_and_plot_and_goes_on_where_it_was(tmp_path, monkeypatch, capsys, quick):
    args = [*SMALL, "--out", str(tmp_path)]
    state = torch.get_rng_state()
    assert run(monkeypatch, *args) == 0
    assert torch.equal(torch.get_rng_state(), state)
    table = (tmp_path / "table.md").read_text()
    assert table in capsys.readouterr().out
    found = json.loads((tmp_path / "cells.json").read_text())["cells"]
    assert [cell["cell"]["method"] for cell in found] == list(METHODS)
    for cell in found:
        first, *_, last = cell["curve"]
        assert (first["up"], first["down"]) == (0, 0) or METHODS[cell["cell"]["method"]].sets
        assert last["round"] == METHODS[cell["cell"]["method"]].rounds
        assert 0 <= last["accuracy"] <= 1
        assert last["up"] > 0
        assert not any(cell["refused"])
    assert (tmp_path / "bytes.png").stat().st_size > 1000
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cells").iterdir()}
    assert run(monkeypatch, *args) == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cells").iterdir()} == before


def cell(method, seed, *accuracies, up=10, share=None):
    curve = [
        {"round": i, "accuracy": a, "up": up * i * 100_000, "down": i * 100_000}
        for i, a in enumerate((0.1, *accuracies))
    ]
    told = {"method": method, "alpha": 0.1, "seed": seed}
    return {"cell": told, "curve": curve, "seconds": 2.0, "share": share}


def test_figures_are_those_of_the_last_round_and_of_equal_bytes():
    cells = [
        cell("fedavg", 0, 0.3, 0.6, 0.5, up=1),
        cell("fedavg", 1, 0.4, 0.7, 0.7, up=1),
        cell("feddm", 0, 0.8, 0.7, up=1, share=0.25),
        cell("feddm", 1, 0.9, 0.8, up=1, share=0.5),
    ]
    rows = [line for line in markdown(cells).splitlines() if line.startswith("| fed")]
    assert rows[0] == "| fedavg | 3 | 60.0 ± 14.1 | 0.300 | 0.300 | 0.600 | 60.0 ± 14.1 | – | 2 | 2 |"
    # After as many bytes, two rounds, FedAvg had 60 and 70 %.
    assert rows[1] == "| feddm | 2 | 75.0 ± 7.1 | 0.200 | 0.200 | 0.400 | 65.0 ± 7.1 | 50 % | 2 | 2 |"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--methods", "fedsgd"], "methods must be among fedavg"),
        (["--alpha", "0"], "alpha must be"),
        (["--clients", "0"], "clients must be at least 1"),
        (["--seeds", "x"], "seeds must be whole numbers"),
    ],
)
def test_bad_options_end_with_a_message(tmp_path, monkeypatch, capsys, change, message):
    assert run(monkeypatch, *SMALL, "--out", str(tmp_path), *change) == 2
    assert message in capsys.readouterr().err
