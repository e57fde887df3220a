"""The benchmark of memories: a run leaves the global generator alone, and figures of the table are means of seeds."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks.continual import BENCHMARK, rows
from benchmarks.kit import RunGroup

SMALL = ["--data", "digits", "--images", "30", "--learners", "mlp", "--seconds", "0.1", "--ipc", "1"]


def test_a_domain_has_two_classes_and_no_draw_of_the_run_is_left(tmp_path):
    state = torch.get_rng_state()
    words = [*SMALL, "--scenario", "domain", "--methods", "naive,reservoir,class means,dm", "--out", str(tmp_path)]
    assert BENCHMARK.run(words) == 0
    assert torch.equal(torch.get_rng_state(), state)
    for cell in json.loads((tmp_path / "cells.json").read_text())["cells"]:
        reached = cell["learners"]["mlp"]
        # Two classes: a network without a memory is right for one of them at least.
        assert 0.4 < reached["accuracy"] <= 1
        # Ten images of 64 bytes and a label each.
        assert cell["bytes"] == (0 if cell["cell"]["method"] == "naive" else 10 * 66)
        assert (reached["memory only"] is None) == (cell["cell"]["method"] == "naive")


def test_a_row_has_the_means_of_a_learner():
    def group(method, ipc, *accuracies):
        reached = {"forgetting": 0.25, "backward": -0.125, "memory only": None, "seconds": 3.0}
        results = [
            {"bytes": 660, "memory seconds": 1.0, "learners": {n: {"accuracy": a, **reached} for n in ("mlp", "lenet")}}
            for a in accuracies
        ]
        return RunGroup(method, {"ipc": ipc}, results)

    found = rows([group("random", 1, 0.5, 0.6), group("random", 5, 0.7), group("naive", None, 0.2)])
    assert [(row.results[0]["learner"], row.method, row.at["ipc"]) for row in found] == [
        (learner, method, ipc)
        for learner in ("mlp", "lenet")
        for method, ipc in (("naive", None), ("random", 1), ("random", 5))
    ]
    table = BENCHMARK.table(found, [])
    assert "| random | 1 | mlp | 55.0 ± 7.1 | 25.0 ± 0.0 | -12.5 ± 0.0 | 660 | 1 ± 0 | 3 ± 0 |\n" in table
    assert "| naive | – | lenet | 20.0 |" in table


BAD = {
    "method": (["--methods", "magic"], "methods must be among naive, reservoir"),
    "learner": (["--learners", "human"], "learners must be among mlp, lenet, got 'human'"),
    "ipc": (["--ipc", "0"], "ipc must be at least 1, got 0"),
    "epochs": (["--epochs", "0"], "epochs must be at least 1, got 0"),
}


@pytest.mark.parametrize(("args", "message"), BAD.values(), ids=BAD)
def test_bad_options_are_named(tmp_path, capsys, args, message):
    assert BENCHMARK.run([*SMALL, "--out", str(tmp_path), *args]) == 2
    assert message in capsys.readouterr().err
