"""Memory of one step through an unrolled training: the table, and the measured peak."""

from __future__ import annotations

import json
import sys

import pytest

from benchmarks.machine import unroll
from benchmarks.machine.__main__ import main

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the peak of a process from a point on")


@pytest.mark.slow
@LINUX
def test_bench_prints_the_unroll_table(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(unroll, "measure_unroll", unroll._measure)
    out = tmp_path / "unroll.json"
    small = ["--widths", "4", "--student-steps", "2", "--ipc", "1", "--repeats", "1"]
    assert main(["--table", "unroll", *small, "--out", str(out)]) == 0
    ((row,),) = json.loads(out.read_text())["rows"].values()
    assert row["steps"] == 2
    assert min(float(row["full, cosine"]), float(row["replayed, cosine"])) > 0.999
    assert float(row["truncated, cosine"]) > 0.5
    assert "one step of trajectory matching" in capsys.readouterr().out
    for option, message in (
        (["--student-steps", "0"], "student_steps must be whole numbers of at least 1"),
        (["--student-steps", ","], "student_steps must hold at least one number"),
    ):
        assert main(["--table", "unroll", *option]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.slow
@LINUX
def test_the_memory_of_a_replayed_step_is_that_of_one_step_of_the_student():
    # The full graph of 24 steps takes 100 MiB and more; the weights that are kept take 0.2 MiB.
    assert unroll.measure_unroll("replayed", 24, 8, 2).memory < 40 * 2**20
