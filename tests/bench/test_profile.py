"""Where the time of a step goes: events are attributed to what they work for."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest

from benchmarks.machine.__main__ import main
from benchmarks.machine.profile import shares


@dataclass
class Event:
    name: str
    self_cpu_time_total: float
    cpu_parent: Event | None = None


def test_an_operator_counts_for_what_is_around_it():
    norm = Event("autograd::engine::evaluate_function: NativeGroupNormBackward0", 100_000.0)
    events = [
        Event("aten::mkldnn_convolution", 200_000.0),
        Event("aten::copy_", 50_000.0, Event("ConvolutionBackward0", 0.0)),
        Event("aten::mul", 50_000.0, Event("aten::add", 0.0, norm)),
        norm,
        Event("aten::addmm", 60_000.0),
        Event("AddmmBackward0", 40_000.0),
        Event("aten::add", 80_000.0, Event("_PoolBackward", 0.0)),
        Event("aten::threshold_backward", 20_000.0),
        Event("aten::add", 100_000.0),
        Event("aten::clamp_max", 100_000.0),
    ]
    found = shares(events, 1.0)
    wanted = {
        "convolution": 0.25,
        "matrix product": 0.1,
        "normalisation": 0.15,
        "pooling, ReLU": 0.1,
        "other operators": 0.2,
        "outside operators": 0.2,
    }
    assert found == pytest.approx(wanted)
    assert sum(found.values()) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("aten::mm", "matrix product"),
        ("aten::bmm", "matrix product"),
        ("autograd::engine::evaluate_function: MmBackward0", "matrix product"),
        ("aten::linalg_cholesky_ex", "matrix product"),
        ("aten::linear", "matrix product"),
        ("aten::native_batch_norm", "normalisation"),
        ("aten::convolution_backward", "convolution"),
        ("_Unpool", "pooling, ReLU"),
        ("aten::norm", "other operators"),
        ("aten::common", "other operators"),
        ("Optimizer.step#SGD.step", "other operators"),
    ],
)
def test_names_of_operators(name, kind):
    assert shares([Event(name, 1e6)], 1.0)[kind] == 1.0


def test_no_events_leave_everything_outside():
    assert shares([], 2.0)["outside operators"] == 1.0


def test_the_table_of_two_recipes(tmp_path, capsys):
    words = "--table profile --recipes dm,kip --widths 4 --ipc 1 --repeats 1"
    assert main([*words.split(), "--out", str(tmp_path / "profile.json")]) == 0
    (rows,) = json.loads((tmp_path / "profile.json").read_text())["rows"].values()
    assert [row["recipe"] for row in rows] == ["dm", "kip"]
    assert all(0 <= int(row["these three"].rstrip("%")) <= 100 for row in rows)
    assert int(rows[0]["convolution"].rstrip("%")) > 5
    assert int(rows[1]["matrix product"].rstrip("%")) > 0
    assert "time of an outer step" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--recipes mtt", "recipes must be among"),
        ("--recipes dm --widths 4,8", "widths must be one width"),
        ("--recipes dm --repeats 0", "repeats must be at least 1"),
    ],
)
def test_what_cannot_be_profiled_is_refused(words, message, capsys):
    assert main(["--table", "profile", *words.split()]) == 2
    assert message in capsys.readouterr().err
