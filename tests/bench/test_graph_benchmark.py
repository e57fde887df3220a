"""Graph benchmarks: published figures, a kernel's column of its own, a line for all real data, and refusals."""

from __future__ import annotations

import pytest

pytest.importorskip("torch_geometric")

from benchmarks import graph, whole_graphs
from benchmarks.kit import RunGroup


def result(gcn, **more):
    return {"graph": "cora", "gcn": gcn, "seconds": 3.0, "bytes": 401_560, "edges": 12, **more}


def test_kernels_have_a_column_of_their_own():
    groups = [
        RunGroup("gc-sntk", {"nodes": 70}, [result([0.79, 0.81], kernel=[0.81])]),
        RunGroup("gcond", {"nodes": 70}, [result([0.8, 0.8]), result([0.77, 0.79])]),
        RunGroup("whole graph", {"nodes": None}, [{"graph": "cora", "gcn": [0.8]}]),
    ]
    assert graph.BENCHMARK.table(groups, groups).splitlines() == [
        "| method | nodes | gcn, % | by its own kernel, % | published, % | kB | edges | seconds |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        "| gc-sntk | 70 | 80.0 ± 1.4 | 81.0 | 82.4 | 402 | 12 | 3 |",
        "| gcond | 70 | 79.0 ± 1.4 | – | 81.0 | 402 ± 0 | 12 ± 0 | 3 ± 0 |",
        "| whole graph | – | 80.0 | – | 81.1 | – | – | – |",
    ]


def test_all_real_data_are_a_horizontal_line():
    assert graph.points(RunGroup("gcond", {"nodes": 70}, [result([0.7, 0.9]), result([1.0])])) == [(3.0, 90.0)]
    assert graph.points(RunGroup("whole graph", {"nodes": None}, [{"gcn": [0.8]}])) == [(None, 80.0)]


@pytest.mark.parametrize(
    ("benchmark", "words", "message"),
    [
        (graph, ["--others", "gin"], "others must be among gcn"),
        (graph, ["--methods", "gcond", "--nodes", "0"], "nodes must be at least 1, got 0"),
        (graph, ["--networks", "0"], "networks must be at least 1, got 0"),
        (whole_graphs, ["--steps", "0"], "steps must be at least 1, got 0"),
    ],
)
def test_bad_options_are_refused(benchmark, words, message, tmp_path, capsys):
    assert benchmark.BENCHMARK.run(["--data", "sbm-300", "--out", str(tmp_path), *words]) == 2
    assert message in capsys.readouterr().err
