"""`ddsdk bench` for this machine: what it prints, and what it refuses."""

from __future__ import annotations

import json

import pytest

import ddsdk as dd
from benchmarks.machine.__main__ import main
from benchmarks.machine.machine import SHAPE
from benchmarks.machine.speed import conv_flops


@pytest.mark.slow
def test_bench_prints_the_speed_table(tmp_path, capsys):
    out = tmp_path / "speed.json"
    small = ["--widths", "4", "--real-batch", "8", "--ipc", "1", "--repeats", "1", "--recipes", "dm,kip,mtt"]
    assert main(["--table", "speed", *small, "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    assert {row["step"] for row in found["rows"]["matching steps"]} == {"dm", "dc"}
    dm, kip, mtt = found["rows"]["recipes"]
    assert (dm["recipe"], kip["recipe"], mtt["recipe"]) == ("dm", "kip", "mtt")
    # Ten classes of eight real images and one of the set: forward, and backward to the image alone.
    network = dd.network_factory("convnet", SHAPE, 10, width=4)(dd.generator("count"))
    forward, _ = conv_flops(network, SHAPE)
    assert float(dm["GFLOP"]) == pytest.approx(10 * (8 + 2) * forward / 1e9, rel=0.02)
    assert mtt["10 classes, MiB"] == "–" and kip["10 classes, MiB"] >= 0
    # What docs/results/curve.md shows: dm has its mark of fifteen seconds, and kernel machines train no network.
    assert dm["CPU s to 70 % (fashion-mnist, ipc 1)"] < 60
    assert kip["CPU s to 70 % (fashion-mnist, ipc 1)"] == "–"
    assert "matching steps" in capsys.readouterr().out


def test_stacked_networks_are_timed_beside_a_loop(tmp_path):
    out = tmp_path / "stacked.json"
    assert main(["--table", "stacked", "--widths", "4", "--ipc", "1", "--repeats", "1", "--out", str(out)]) == 0
    (rows,) = json.loads(out.read_text())["rows"].values()
    assert [row["network"] for row in rows] == ["mlp", "lenet", "convnet 4"]
    assert all(row["images"] == 10 and row["one by one, ms"] > 0 for row in rows)


BAD_BENCH = {
    "reach": (["--reach", "100"], "reach must be a percentage between 0 and 100, got 100"),
    "recipes": (["--recipes", "krr"], "recipes must be among"),
    "widths": (["--widths", "4,x"], "widths must be whole numbers of at least 1, separated by commas, got 'x'"),
    "no width": (["--widths", ","], "widths must hold at least one number"),
    "real batch": (["--real-batch", "0"], "real_batch must be at least 1, got 0"),
    "ipc": (["--ipc", "0"], "ipc must be at least 1, got 0"),
    "repeats": (["--repeats", "0"], "repeats must be at least 1, got 0"),
    "device": (
        ["--device", "foo"],
        "device must be cpu, or an accelerator that torch finds on this machine, got 'foo'",
    ),
}


@pytest.mark.parametrize("args, message", BAD_BENCH.values(), ids=BAD_BENCH)
def test_bad_bench_options_are_named(capsys, args, message):
    assert main(args) == 2
    assert message in capsys.readouterr().err
