"""`ddsdk bench` for this machine: what it prints, and what it refuses."""

from __future__ import annotations

import json

import pytest

from ddsdk.cli import main


def test_bench_prints_the_speed_table(tmp_path, capsys):
    out = tmp_path / "speed.json"
    small = ["--widths", "4", "--real-batch", "8", "--ipc", "1", "--repeats", "1", "--recipes", "dm"]
    assert main(["bench", "--table", "speed", *small, "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    assert {row["step"] for row in found["steps"]} == {"dm", "dc"}
    assert found["recipes"][0]["recipe"] == "dm"
    assert "matching steps" in capsys.readouterr().out


BAD_BENCH = {
    "widths": (
        ["--widths", "4,x"],
        "widths must be whole numbers of at least 1, separated by commas, got 'x'",
    ),
    "no width": (["--widths", ","], "widths must hold at least one number"),
    "real batch": (["--real-batch", "0"], "real_batch must be at least 1, got 0"),
    "ipc": (["--ipc", "0"], "ipc must be at least 1, got 0"),
    "repeats": (["--repeats", "0"], "repeats must be at least 1, got 0"),
    "device": (["--device", "foo"], "device must be cpu, or an accelerator that torch finds here, got 'foo'"),
}


@pytest.mark.parametrize("args, message", BAD_BENCH.values(), ids=BAD_BENCH)
def test_bad_bench_options_are_named(capsys, args, message):
    assert main(["bench", *args]) == 2
    assert message in capsys.readouterr().err
