"""A table as markdown, as JSON, and as one HTML page with contact sheets and a chart."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ddsdk.artefact import Distilled, page_template, sheet_png
from ddsdk.experiments.columns import NO_AUGMENTATION
from ddsdk.experiments.fair import (
    augmentation_robust_score,
    hard_label_recovery,
    improvement_over_random,
    label_robust_score,
)
from ddsdk.experiments.pages import markdown_table
from ddsdk.experiments.table import Cell, Measured, TableRow
from ddsdk.foundation import clean, escape_markdown

_NONE = "–"


class FairScores(NamedTuple):
    """The scores of a set that `ddsdk.experiments.fair` defines; None where something that they need is not there."""

    recovery: float | None
    improvement: float | None
    lrs: float | None
    ars: float | None


def table_values(
    table: str, rows: Sequence[TableRow], machine: Mapping[str, Any], whole: Measured | None
) -> dict[str, Any]:
    """Return a table as plain values, for JSON."""
    return {
        "table": table,
        "rows": [dataclasses.asdict(row) for row in rows],
        "whole": None if whole is None else dataclasses.asdict(whole),
        "machine": dict(machine),
    }


def fair_scores(row: TableRow, whole: Measured | None, rival: str = "random") -> FairScores:
    """Return the fair scores of a row of the table ``fair-scores``.

    Args:
        row: With the columns of that table.
        whole: Of networks that are trained on all of the data; None leaves out what needs it.
        rival: What counts as random.
    """
    cells = {cell.column: cell for cell in row.cells}
    hard, own = cells.get("hard labels"), cells.get("own")
    bare = cells.get(NO_AUGMENTATION, own)
    recovery = None
    if whole is not None and hard is not None and hard.own is not None:
        recovery = hard_label_recovery(whole.mean, hard.own.mean)
    gains = [_gain(cell, rival) for cell in (own, bare)]
    first, second = gains
    return FairScores(
        recovery,
        first,
        None if recovery is None or first is None else label_robust_score(recovery, first),
        None if first is None or second is None else augmentation_robust_score(first, second),
    )


def _gain(cell: Cell | None, rival: str) -> float | None:
    if cell is None or cell.own is None or rival not in cell.baselines:
        return None
    return improvement_over_random(cell.own.mean, cell.baselines[rival].mean)


class Grid(NamedTuple):
    """Words in rows and columns."""

    columns: list[str]
    rows: list[list[str]]


def grids(table: str, rows: Sequence[TableRow], whole: Measured | None = None) -> list[Grid]:
    """Return what a table shows.

    Tables of one or two protocols have a line for each protocol, with the baselines beside it; those of many have a
    line for each method, with a column for each protocol.
    """
    if table in ("survey-1", "fair-scores"):
        found = [_by_protocol(rows)]
        return [*found, _scores(rows, whole)] if table == "fair-scores" else found
    return [_by_method(rows)]


def table_markdown(table: str, rows: Sequence[TableRow], whole: Measured | None = None) -> str:
    """Return a table in markdown, see `grids`."""
    parts = []
    for grid in grids(table, rows, whole):
        heads, *rows_ = ([escape_markdown(cell) for cell in line] for line in (grid.columns, *grid.rows))
        parts.append(markdown_table(heads, rows_))
    if whole is not None:
        parts.append(f"Trained on all of the training data: {_number(whole)} %.\n")
    notes = [f"- {escape_markdown(note, 400)}" for note in _notes(rows)]
    return "\n".join([*parts, *(["\n".join(notes) + "\n"] if notes else [])])


def _notes(rows: Sequence[TableRow]) -> list[str]:
    return [f"{row.method}, ipc {row.ipc}: {row.note}" for row in rows if row.note]


def _by_protocol(rows: Sequence[TableRow]) -> Grid:
    rivals = list(dict.fromkeys(name for row in rows for cell in row.cells for name in cell.baselines))
    columns = ["data", "ipc", "method", "judged by", "accuracy, %", "published, %", *[f"{r}, %" for r in rivals]]
    columns += ["labels", "augmentation", "learned lr", "floats", "distilled in"]
    lines = []
    for row in rows:
        for cell in row.cells:
            beside = [_number(cell.baselines.get(rival)) for rival in rivals]
            lines.append([*_method(row), cell.column, *_figures(cell), *beside, *_facts(row, cell)])
        if not row.cells:
            lines.append([*_method(row), *[_NONE] * (len(columns) - 3)])
    return Grid(columns, lines)


def _by_method(rows: Sequence[TableRow]) -> Grid:
    names = list(dict.fromkeys(cell.column for row in rows for cell in row.cells))
    lines = []
    for row in rows:
        cells = {cell.column: cell for cell in row.cells}
        found = [_number(cells[n].own) + _beside(cells[n]) if n in cells else _NONE for n in names]
        lines.append([*_method(row), *found])
        for rival in dict.fromkeys(r for cell in row.cells for r in cell.baselines):
            beside = [_number(cells[n].baselines.get(rival)) if n in cells else _NONE for n in names]
            lines.append([row.data, str(row.ipc), f"{rival}, for {row.method}", *beside])
    return Grid(["data", "ipc", "trained on", *names], lines)


def _scores(rows: Sequence[TableRow], whole: Measured | None) -> Grid:
    columns = ["data", "ipc", "method", "hard-label recovery", "improvement over random", "LRS", "ARS"]
    scores = [[_NONE if v is None else f"{v:.3f}" for v in fair_scores(row, whole)] for row in rows]
    return Grid(columns, [[*_method(row), *found] for row, found in zip(rows, scores, strict=True)])


def _method(row: TableRow) -> list[str]:
    return [row.data, str(row.ipc), row.method]


def _number(measured: Measured | None) -> str:
    """Return mean ± over networks, and ± over sets where there are several, in percent."""
    if measured is None:
        return _NONE
    spreads = (("networks", measured.over_networks), ("sets", measured.over_sets))
    told = [f"± {100 * value:.1f} ({name})" for name, value in spreads if value is not None]
    return " ".join([f"{100 * measured.mean:.1f}", *told])


def _beside(cell: Cell) -> str:
    return "" if cell.published is None else f" [{cell.published}]"


def _figures(cell: Cell) -> list[str]:
    return [_number(cell.own), _NONE if cell.published is None else f"{cell.published}"]


def _facts(row: TableRow, cell: Cell) -> list[str]:
    known = [s for s in row.seconds if s is not None]
    reading = cell.evaluation.get("labels", "stored")
    kind = row.labels if reading == "stored" or row.labels == "hard" else f"{row.labels} as {reading}"
    return [
        f"{kind} of a teacher" if row.teacher else kind,
        str(cell.evaluation["augmentation"]).replace("_", " ") or "none",
        "yes" if row.learned_lr else "no",
        str(row.floats),
        f"{sum(known) / len(known):.0f} s" if known else _NONE,
    ]


def table_html(
    title: str,
    table: str,
    rows: Sequence[TableRow],
    sets: Mapping[str, Distilled],
    machine: Mapping[str, Any],
    whole: Measured | None = None,
) -> str:
    """Return one HTML page that needs no other file and runs no script.

    Args:
        title: Of the page.
        table: Its name.
        rows: Its rows.
        sets: By a name for each.
        machine: Versions and device.
        whole: Of networks that are trained on all of the data.
    """
    shown = {name: base64.b64encode(sheet_png(distilled)).decode() for name, distilled in sets.items()}
    return page_template("table.html").render(
        title=clean(title),
        machine=[(clean(k), clean(str(v), 200)) for k, v in machine.items()],
        bars=[bar for row in rows for bar in _bars(row)],
        tables=[
            {"head": grid.columns, "rows": [[clean(cell, 200) for cell in line] for line in grid.rows]}
            for grid in grids(table, rows, whole)
        ],
        whole="" if whole is None else _number(whole),
        notes=[clean(note, 400) for note in _notes(rows)],
        sheets=[(clean(name, 80), data) for name, data in shown.items()],
    )


def _bars(row: TableRow) -> list[dict[str, Any]]:
    """Return one bar of the chart for each protocol, with marks for spread, baselines and the published figure."""
    found = []
    for cell in row.cells:
        if cell.own is None:
            continue
        spread = cell.own.over_sets or cell.own.over_networks or 0.0
        rivals = [(clean(name, 30), 100 * m.mean) for name, m in cell.baselines.items()]
        high = 100 * min(1.0, cell.own.mean + spread)
        found.append(
            {
                "name": clean(f"{row.method}, ipc {row.ipc}: {cell.column}", 60),
                "mean": 100 * cell.own.mean,
                "low": 100 * max(0.0, cell.own.mean - spread),
                "high": high,
                "end": max([high, cell.published or 0.0, *(value for _, value in rivals)]),
                "text": _number(cell.own),
                "published": cell.published,
                "rivals": rivals,
            }
        )
    return found
