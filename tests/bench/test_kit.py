"""The kit of benchmarks: cells, options, one measurement each, groups, the table and its refusals."""

from __future__ import annotations

import dataclasses
import json

import pytest

from benchmarks.kit import Axis, Benchmark, Column, Loaded, Plot, RunGroup, mean_of, percent_of, value_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExperimentConfig:
    """Values that all cells share.

    Attributes:
        scale: Factor of a result.
    """

    scale: float = 2.0

    def __post_init__(self) -> None:
        if self.scale <= 0:
            raise ValueError(f"scale must be positive, got {self.scale}")


def declared(calls, **changes):
    def measure(cell, config, base):
        calls.append(cell)
        if cell.method == "broken":
            raise ValueError("broken must work, got nothing")
        return {"value": config.scale * cell["size"] + cell.seed + base, "share": 0.5, "floats": 7}

    what = {
        "prog": "python -m benchmarks.test",
        "text": "Measure nothing.",
        "config": ExperimentConfig,
        "methods": ("whole", "sized"),
        "measure": measure,
        "axes": {"size": Axis("1,2", "Sizes, separated by commas.")},
        "values": lambda method, _, values: values[:1] if method == "whole" else values,
        "columns": [mean_of("mean", "value"), percent_of("share, %", "share"), value_of("floats", "floats")],
        "load": lambda options: Loaded((len(options.data),), {"data": options.data}),
        "line": lambda result: f"value {result['value']}",
    }
    return Benchmark(**{**what, **changes})


def test_each_cell_is_measured_once_and_seeds_are_grouped(tmp_path, capsys):
    calls = []
    asked = ["--data", "abc", "--out", str(tmp_path), "--seeds", "0,2"]
    assert declared(calls).run(asked) == 0
    assert [(c.method, c["size"], c.seed) for c in calls] == [
        *(("whole", 1, 0), ("whole", 1, 2)),
        *(("sized", 1, 0), ("sized", 1, 2), ("sized", 2, 0), ("sized", 2, 2)),
    ]
    said = capsys.readouterr().out
    assert "sized, size 2, seed 2: value 9.0" in said
    table = (tmp_path / "table.md").read_text()
    assert said.endswith(table + "\n")
    # scale · size + seed + 3: 5 and 7, and 7 and 9; the deviation of two values is their distance over √2.
    assert table.splitlines()[2:] == [
        "| whole | 1 | 6.0 ± 1.4 | 50.0 ± 0.0 | 7 |",
        "| sized | 1 | 6.0 ± 1.4 | 50.0 ± 0.0 | 7 |",
        "| sized | 2 | 8.0 ± 1.4 | 50.0 ± 0.0 | 7 |",
    ]
    told = json.loads((tmp_path / "cells.json").read_text())["cells"]
    assert told[-1] == {
        "cell": {"method": "sized", "seed": 2, "at": {"size": 2}},
        "value": 9.0,
        "share": 0.5,
        "floats": 7,
    }
    assert declared(calls).run(asked) == 0
    assert len(calls) == 6
    assert capsys.readouterr().out == table + "\n"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, ["--scale", "3"]),
        ({}, ["--data", "other"]),
        ({"about": lambda cell, config: {"version": 2}}, []),
        ({"prog": "python -m benchmarks.other"}, []),
    ],
    ids=["setting", "data", "about", "benchmark"],
)
def test_a_result_is_kept_for_what_it_depends_on(tmp_path, changes, words):
    calls = []
    asked = ["--data", "abc", "--out", str(tmp_path), "--methods", "whole"]
    assert declared(calls).run(asked) == 0
    assert declared(calls, **changes).run([*asked, *words]) == 0
    assert len(calls) == 2


def test_a_run_that_fails_keeps_what_it_measured(tmp_path, capsys):
    calls = []
    benchmark = declared(calls, methods=("whole", "broken"))
    asked = ["--data", "abc", "--out", str(tmp_path)]
    assert benchmark.run(asked) == 2
    assert "error: broken must work, got nothing" in capsys.readouterr().err
    assert not (tmp_path / "table.md").exists()
    assert benchmark.run([*asked, "--methods", "whole"]) == 0
    assert [c.method for c in calls] == ["whole", "broken"]


def test_the_help_has_common_options_settings_and_axes(capsys):
    with pytest.raises(SystemExit):
        declared([]).run(["--help"])
    said = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for text in (
        "Measure nothing.",
        "--seeds STR Seeds of the runs, separated by commas.",
        "--scale FLOAT Factor of a result. (default: 2.0)",
        "--size STR Sizes, separated by commas. (default: 1,2)",
        "Whether the plot is drawn; needs matplotlib. (default: True)",
    ):
        assert text in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--methods", "whole,nothing"], "methods must be among whole, sized, got 'nothing'"),
        (["--seeds", "1,x"], "seeds must hold values separated by commas, got '1,x'"),
        (["--size", ","], "size must hold at least one value, got ','"),
        (["--scale", "-1"], "scale must be positive, got -1.0"),
    ],
)
def test_wrong_options_are_named(tmp_path, capsys, words, message):
    calls = []
    assert declared(calls).run(["--data", "abc", "--out", str(tmp_path), *words]) == 2
    assert f"error: {message}" in capsys.readouterr().err
    assert calls == []


def test_columns_pass_over_results_without_a_value():
    mean = mean_of("mean", "x", digits=2).text
    assert mean(RunGroup("m", {}, [{"x": 1.0}, {"x": None}, {}])) == "1.00"
    assert mean(RunGroup("m", {}, [{"x": None}])) == "–"
    # One set with several networks: their mean and deviation.
    assert mean(RunGroup("m", {}, [{"x": [1.0, 3.0]}])) == "2.00 ± 1.41"
    # Several sets: the deviation is that between sets.
    assert mean(RunGroup("m", {}, [{"x": [1.0, 3.0]}, {"x": [3.0, 5.0]}])) == "3.00 ± 1.41"
    assert value_of("v", "x").text(RunGroup("m", {}, [{"x": None}])) == "–"


def test_the_plot_and_the_notes_are_made_of_groups(tmp_path):
    plot = Plot("lines.png", lambda g: [(g.at["size"], r["value"]) for r in g.results], "size", "value")
    notes = declared([], plot=plot, notes=lambda groups: f"{len(groups)} groups\n")
    heads = [Column("name", lambda g: g.method.upper())]
    assert dataclasses.replace(notes, columns=heads).run(["--data", "a", "--out", str(tmp_path)]) == 0
    table = (tmp_path / "table.md").read_text()
    assert table.startswith("| method | size | name |\n")
    assert table.endswith("| sized | 2 | SIZED |\n\n3 groups\n")
    assert (tmp_path / "lines.png").stat().st_size > 5000


def test_a_column_without_a_value_is_left_out(tmp_path):
    columns = [mean_of("none", "nothing"), Column("some", lambda g: "–" if g.method == "whole" else "x")]
    assert declared([], columns=columns).run(["--data", "a", "--out", str(tmp_path), "--size", "1"]) == 0
    assert (tmp_path / "table.md").read_text().splitlines()[::2] == ["| method | size | some |", "| whole | 1 | – |"]


def test_cells_rows_columns_and_lines_can_be_chosen(tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr("benchmarks.kit.draw_lines", lambda lines, path, **how: drawn.update(lines))
    calls = []
    benchmark = declared(
        calls,
        keep=lambda cell: cell["size"] > 1 or cell.method == "whole",
        rows=lambda groups: [group._replace(method=f"{group.method}!") for group in reversed(groups)],
        columns=lambda rows: [Column(f"of {len(rows)}", lambda row: row.method)],
        notes=lambda groups: groups[0].method,
        plot=Plot("a.png", lambda row: [(1.0, 2.0)], "x", "y", name=lambda row: f"{row.method} {row.at['size']}"),
    )
    assert benchmark.run(["--data", "a", "--out", str(tmp_path)]) == 0
    assert [(c.method, c["size"]) for c in calls] == [("whole", 1), ("sized", 2)]
    table = (tmp_path / "table.md").read_text().splitlines()
    assert table[0] == "| method | size | of 2 |"
    assert table[2:] == ["| sized! | 2 | sized! |", "| whole! | 1 | whole! |", "", "whole"]
    assert drawn == {"sized! 2": [(1.0, 2.0)], "whole! 1": [(1.0, 2.0)]}


def test_a_plot_may_have_a_picture_for_each_value(tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr("benchmarks.kit.draw_lines", lambda lines, path, **how: drawn.update({path: lines}))
    plot = Plot(lambda row: f"size-{row.at['size']}.png", lambda row: [(1.0, row.results[0]["value"])], "x", "y")
    assert declared([], plot=plot).run(["--data", "a", "--out", str(tmp_path)]) == 0
    assert drawn == {
        tmp_path / "size-1.png": {"whole": [(1.0, 3.0)], "sized": [(1.0, 3.0)]},
        tmp_path / "size-2.png": {"sized": [(1.0, 5.0)]},
    }
