"""The benchmark's command, on digits and for seconds."""

from __future__ import annotations

import json

import pytest
import torch

from ddsdk_integrations.continual.__main__ import main
from ddsdk_integrations.continual.table import markdown

SMALL = [
    *("--data", "digits", "--ipc", "1", "--learners", "mlp", "--seconds", "0.1"),
    *("--images", "30", "--scenario", "class,domain"),
]
pytestmark = pytest.mark.filterwarnings("ignore")


def run(monkeypatch, *args):
    monkeypatch.setattr("sys.argv", ["benchmark", *args])
    return main()


def test_the_command_writes_table_cells_and_plots_and_goes_on_where_it_was(tmp_path, monkeypatch, capsys):
    args = [*SMALL, "--out", str(tmp_path), "--seeds", "0,1", "--methods", "naive,random,class means,dm"]
    state = torch.get_rng_state()
    assert run(monkeypatch, *args) == 0
    assert torch.equal(torch.get_rng_state(), state)
    table = (tmp_path / "table.md").read_text()
    assert table in capsys.readouterr().out
    assert "class-incremental, mlp" in table and "domain-incremental, mlp" in table
    found = json.loads((tmp_path / "cells.json").read_text())["cells"]
    assert len(found) == 2 * 2 * 4 == len(list((tmp_path / "cells").iterdir()))
    for cell in found:
        outcome = cell["learners"]["mlp"]
        assert 0 <= outcome["accuracy"] <= 1
        # Ten classes of 64 bytes and a label each.
        assert cell["bytes"] <= 10 * 66
        assert (outcome["memory_only"] is None) == (cell["cell"]["method"] == "naive")
    assert {path.name for path in tmp_path.glob("*.png")} == {"replay-mlp.png", "alone-mlp.png"}
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cells").iterdir()}
    assert run(monkeypatch, *args) == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cells").iterdir()} == before


def test_figures_are_those_of_their_formulas():
    outcome = {"accuracy": 0.5, "forgetting": 0.25, "backward": -0.125, "memory_only": None}
    better = {**outcome, "accuracy": 0.6}
    cells = [
        {
            "cell": {"method": "random", "ipc": 1, "seed": seed},
            "setting": {"scenario": "class"},
            "bytes": 660,
            "memory seconds": 1.0,
            "seconds": {"mlp": 3.0},
            "learners": {"mlp": one},
        }
        for seed, one in enumerate([outcome, better])
    ]
    row = markdown(cells).splitlines()[4]
    assert row == "| 1 | random | 55.0 ± 7.1 | 25.0 ± 0.0 | -12.5 ± 0.0 | – | 660 | 1 | 3 | 2 |"


BAD = {
    "method": (["--methods", "magic"], "methods must be among naive, reservoir"),
    "learner": (["--learners", "human"], "learners must be among mlp, lenet, got 'human'"),
    "ipc": (["--ipc", "0"], "ipc must be whole numbers of at least 1, separated by commas, got '0'"),
    "seeds": (["--seeds", ""], "seeds must hold at least one number, got ''"),
    "scenario": (["--scenario", "task"], "scenario must be class or domain, got 'task'"),
}


@pytest.mark.parametrize(("args", "message"), BAD.values(), ids=BAD)
def test_bad_options_are_named(tmp_path, monkeypatch, capsys, args, message):
    assert run(monkeypatch, "--data", "digits", "--out", str(tmp_path), *args) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
