"""The sets of the result pages: valid commands, and a small set that is made, evaluated, reported and continued."""

from __future__ import annotations

import shlex

import pytest

from benchmarks.cells import CELLS, Cell, CellsBenchmark
from ddsdk.cli.main import _parse


@pytest.mark.parametrize("name", CELLS)
def test_the_options_of_a_cell_are_valid(name):
    distill, evaluate = (shlex.split(options) for options in CELLS[name])
    command = _parse(["distill", *distill, "--out", "set"])
    ipc = 1 if name.startswith("short-") else int(name.rsplit("-", 1)[1])
    assert command.method.ipc == ipc
    assert _parse(["evaluate", "set", *distill[:2], *evaluate]).protocol in ("stored", "published", "both")


def test_a_cell_is_made_once_and_reported(tmp_path, monkeypatch, capsys):
    small = "--data digits --recipe dm --ipc 1 --steps 2 --width 4 --real-batch 4"
    monkeypatch.setitem(CELLS, "small-1", Cell(small, "--protocol published --epochs 2 --width 4"))
    benchmark = CellsBenchmark(out=tmp_path, cells="small-1", repeats=1)
    assert benchmark.run() == 0
    assert "| digits | 1 | dm |" in capsys.readouterr().out
    assert benchmark.run() == 0
    assert "already finished" in capsys.readouterr().out
    with pytest.raises(ValueError, match="cells must be names among"):
        CellsBenchmark(out=tmp_path, cells="none").run()
