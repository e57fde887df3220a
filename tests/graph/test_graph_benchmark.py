"""The command: it measures what is missing, and writes a table and a plot."""

from __future__ import annotations

import json
import sys

import pytest

from ddsdk_integrations.graph import whole_graphs
from ddsdk_integrations.graph.__main__ import Benchmark, main
from ddsdk_integrations.graph.table import markdown


def cell(method, nodes, seed, kernel=None, gcn=0.8):
    scores = {"gcn": {"mean": gcn, "spread": 0.01}}
    if kernel is not None:
        scores = {"kernel": {"mean": kernel, "spread": 0.0}, **scores}
    costs = {"bytes": 401_560, "edges": 12, "seconds": 3.0}
    return {"cell": {"method": method, "nodes": nodes, "seed": seed}, "scores": scores, **costs}


def test_kernels_have_a_column_of_their_own():
    cells = [cell("gc-sntk", 70, 0, kernel=0.81), cell("gcond", 70, 0), cell("gcond", 70, 1, gcn=0.78)]
    head, _, *rows = markdown(cells, "cora").strip().split("\n")
    names = [name.strip() for name in head.strip("|").split("|")]
    assert names[2:5] == ["gcn, %", "by its own kernel, %", "published, %"]
    assert rows[0].startswith("| gc-sntk | 70 | 80.0 ± 1.0 | 81.0 ± 0.0 | 82.4 | 402 | 12 | 3 | 1 |")
    assert rows[1].startswith("| gcond | 70 | 79.0 ± 1.4 | – | 81.0 |")


def test_the_command_measures_each_cell_once(tmp_path, monkeypatch, capsys):
    argv = [
        "graph",
        "--data",
        "sbm-300",
        "--nodes",
        "8",
        "--networks",
        "1",
        "--epochs",
        "2",
        "--width",
        "4",
        "--others",
        "mlp",
    ]
    argv += ["--out", str(tmp_path), "--methods", "propagated,whole graph"]
    monkeypatch.setattr(sys, "argv", argv)
    assert main() == 0
    found = json.loads((tmp_path / "cells.json").read_text())["cells"]
    assert [one["cell"]["method"] for one in found] == ["propagated", "whole graph"]
    assert set(found[0]["scores"]) == {"gcn", "mlp"}
    assert found[0]["peak_bytes"] > 0
    assert (tmp_path / "seconds.png").stat().st_size > 1000
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "cells").iterdir()}
    capsys.readouterr()
    assert main() == 0
    assert files == {path: path.stat().st_mtime_ns for path in (tmp_path / "cells").iterdir()}
    assert "| propagated | 8 |" in capsys.readouterr().out


def test_whole_graphs_have_a_command_of_their_own(tmp_path, monkeypatch, capsys):
    ring = "\n".join(f"0 2 {(i - 1) % 5} {(i + 1) % 5}" for i in range(5))
    path = "1 1 1\n0 2 0 2\n0 1 1"
    graphs = [f"5 1\n{ring}", f"3 0\n{path}"] * 12
    (tmp_path / "own.txt").write_text("\n".join([str(len(graphs)), *graphs]))
    argv = ["x", "--data", "own.txt", "--root", str(tmp_path), "--out", str(tmp_path / "out"), "--networks", "2"]
    argv += ["--epochs", "30", "--steps", "2", "--nodes", "5", "--ipc", "1", "--seeds", "0,1", "--threads", "1"]
    monkeypatch.setattr(sys, "argv", argv)
    assert whole_graphs.main() == 0
    found = json.loads((tmp_path / "out" / "cells.json").read_text())["cells"]
    assert {one["cell"]["method"] for one in found} == set(whole_graphs.METHODS)
    assert all(("bytes" in one) == (one["cell"]["ipc"] > 0) for one in found)
    rows = (tmp_path / "out" / "table.md").read_text().split("\n")
    assert rows[0].startswith("| method | graphs of each class | gcn, % |")
    assert [row.split(" | ")[1] for row in rows[2:5]] == ["1", "1", "all"]
    assert (tmp_path / "out" / "seconds.png").stat().st_size > 1000
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "cells").iterdir()}
    assert len(files) == 6
    assert whole_graphs.main() == 0
    assert files == {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "cells").iterdir()}
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", [*argv, "--steps", "0"])
    assert whole_graphs.main() == 2
    assert "steps must be at least 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"methods": "magic"}, "methods must be among"),
        ({"others": "gin"}, "others must be among"),
        ({"nodes": "0"}, "nodes must be"),
    ],
)
def test_bad_options_are_refused(options, message, tmp_path):
    benchmark = Benchmark(data="sbm-300", out=tmp_path, **options)
    with pytest.raises(ValueError, match=message):
        benchmark.questions(benchmark.load().shown)
