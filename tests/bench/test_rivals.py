"""The table of plain steps: equal inputs and results on both sides, and its rows."""

from __future__ import annotations

import json
import math

import pytest
import torch

from benchmarks.machine import rivals
from benchmarks.machine.__main__ import main
from benchmarks.machine.machine import random_pixels
from ddsdk.foundation import keep_freed_memory

TIMES = ("ours", "plain", "plain, memory kept")


@pytest.fixture(scope="module")
def data():
    return random_pixels(10, 40)


@pytest.mark.parametrize("name", rivals.PAIRS)
def test_both_sides_have_the_same_loss_and_gradients(name, data):
    """The real batch is larger than a micro-batch, so that both ways to sum over it are compared."""
    pair = rivals.PAIRS[name](data, 4, 40, 2)
    (loss, gradients), (plain_loss, plain_gradients) = pair.ours(), pair.plain()
    assert math.isclose(loss, plain_loss, rel_tol=1e-5)
    assert len(gradients) == {"mtt": 2, "frepo": 2}.get(name, 1)
    for found, expected in zip(gradients, plain_gradients, strict=True):
        scale = float(expected.abs().max())
        assert scale > 0
        assert float((found - expected).abs().max()) <= 1e-4 * scale


def test_a_second_call_repeats_the_step(data):
    """Gradients of the call before must not add up on either side."""
    for name in ("dc", "mtt"):
        pair = rivals.PAIRS[name](data, 4, 8, 1)
        for step in (pair.ours, pair.plain):
            first = [g.clone() for g in step()[1]]
            torch.testing.assert_close(step()[1], first, rtol=1e-5, atol=1e-7)


@pytest.fixture
def glibc():
    if not keep_freed_memory.__wrapped__():
        pytest.skip("needs glibc without a memory setting of the user's")
    yield
    keep_freed_memory.__wrapped__()


@pytest.mark.usefixtures("glibc")
def test_the_table_has_a_row_for_each_step_and_width(tmp_path, capsys):
    out = tmp_path / "rivals.json"
    small = ["--widths", "4,8", "--real-batch", "8", "--ipc", "1", "--repeats", "1", "--recipes", "dm,frepo"]
    assert main(["--table", "rivals", *small, "--out", str(out)]) == 0
    (rows,) = json.loads(out.read_text())["rows"].values()
    assert [(row["step"], row["width"]) for row in rows] == [("dm", 4), ("frepo", 4), ("dm", 8), ("frepo", 8)]
    for row in rows:
        assert all(float(row[name]) > 0 for name in TIMES)
        # The times of such small steps have one or two digits.
        assert 0.3 < float(row["plain / ours"]) * float(row["ours"]) / float(row["plain"]) < 3
    assert "image steps" in capsys.readouterr().out


@pytest.mark.usefixtures("glibc")
def test_each_side_has_its_memory_setting(monkeypatch, data):
    """Ours runs with freed memory kept; the plain step once with glibc's defaults and once with freed memory kept."""
    state, seen = [""], []
    monkeypatch.setattr(rivals, "_kept", lambda: state.__setitem__(0, "kept"))
    monkeypatch.setattr(rivals, "_defaults", lambda: state.__setitem__(0, "defaults"))
    pair = rivals.Pair(ours=lambda: seen.append(("ours", *state)), plain=lambda: seen.append(("plain", *state)))
    monkeypatch.setitem(rivals.PAIRS, "dm", lambda *_: pair)
    monkeypatch.setattr(rivals, "_seconds", lambda step: (step(), (1.0, 1.0))[1])
    rivals.rivals_table(recipes=["dm"], widths=[4], real_batch=8, ipc=1, repeats=1)
    assert seen[1::2] == [("ours", "kept"), ("plain", "defaults"), ("plain", "kept")]
    assert seen[::2] == seen[1::2] and state == ["kept"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--recipes", "kip"], "recipes must be among dm, dc, dsa, mtt, idc, frepo for the table rivals, got 'kip'"),
        (["--device", "meta"], "device must be"),
        (["--threads", "0"], "threads must be at least 1, got 0"),
        (["--widths", "0"], "widths must be whole numbers of at least 1"),
    ],
)
def test_bad_options_of_the_table_are_named(words, message, capsys):
    assert main(["--table", "rivals", *words]) == 2
    assert message in capsys.readouterr().err
