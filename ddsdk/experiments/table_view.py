"""A table as markdown, as JSON, and as one HTML page with contact sheets and a chart; scores as markdown."""

from __future__ import annotations

import base64
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ddsdk.artefact import Distilled, page_template, sheet_png
from ddsdk.baselines import BASELINES
from ddsdk.experiments.columns import NO_AUGMENTATION
from ddsdk.experiments.fair import (
    augmentation_robust_score,
    hard_label_recovery,
    improvement_over_random,
    label_robust_score,
)
from ddsdk.experiments.pages import markdown_table, mean_text
from ddsdk.experiments.published import figure_kind, published
from ddsdk.experiments.table import Cell, Measured, Table, TableRow
from ddsdk.foundation import clean, escape_markdown
from ddsdk.training import Evaluation

_NONE = "–"
_SCORE_COLUMNS = (
    *("data", "ipc", "trained on", "accuracy, %", "published, %", "network"),
    *("protocol", "labels, loss", "epochs", "augmentation", "floats", "distilled in"),
)


class FairScores(NamedTuple):
    """The scores of `ddsdk.experiments.fair`; None where something that they need is not there."""

    recovery: float | None
    improvement: float | None
    lrs: float | None
    ars: float | None


def fair_scores(row: TableRow, whole: Measured | None, rival: str = "random") -> FairScores:
    """Return the fair scores of a row of the table ``fair-scores``.

    Args:
        row: Row with the columns of that table.
        whole: Accuracies of networks that are trained on all of the data; None leaves out what needs it.
        rival: Baseline that counts as random.
    """
    cells = {cell.column: cell for cell in row.cells}
    hard, own = cells.get("hard labels"), cells.get("own")
    bare = cells.get(NO_AUGMENTATION, own)
    recovery = None
    if whole is not None and hard is not None and hard.own is not None:
        recovery = hard_label_recovery(whole.mean, hard.own.mean)
    first, second = _gain(own, rival), _gain(bare, rival)
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
    """Heads of columns, and words in rows."""

    columns: list[str]
    rows: list[list[str]]


def _grids(table: Table) -> list[Grid]:
    """Return a table as grids.

    Tables of one or two protocols have a line for each protocol, with the baselines beside it; those of many have a
    line for each method, with a column for each protocol.
    """
    if table.table not in ("survey-1", "fair-scores"):
        return [_by_method(table.rows)]
    return [_by_protocol(table.rows), *([_scores(table)] if table.table == "fair-scores" else [])]


def table_markdown(table: Table) -> str:
    """Return a table in markdown, with a line for each error."""
    parts = []
    for grid in _grids(table):
        heads, *rows = ([escape_markdown(cell) for cell in line] for line in (grid.columns, *grid.rows))
        parts.append(markdown_table(heads, rows))
    if table.whole is not None:
        parts.append(f"Trained on all of the training data: {_number(table.whole)} %.\n")
    notes = [f"- {escape_markdown(note, 400)}" for note in _notes(table)]
    return "\n".join([*parts, *(["\n".join(notes) + "\n"] if notes else [])])


def _notes(table: Table) -> list[str]:
    return [f"{row.method}, ipc {row.ipc}: {row.note}" for row in table.rows if row.note]


def _by_protocol(rows: Sequence[TableRow]) -> Grid:
    rivals = list(dict.fromkeys(name for row in rows for cell in row.cells for name in cell.baselines))
    columns = ["data", "ipc", "method", "judged by", "accuracy, %", "published, %", *[f"{r}, %" for r in rivals]]
    columns += ["labels", "augmentation", "learned lr", "floats", "distilled in"]
    lines = []
    for row in rows:
        for cell in row.cells:
            beside = [_number(cell.baselines.get(rival)) for rival in rivals]
            figures = [_number(cell.own), _NONE if cell.published is None else f"{cell.published}"]
            lines.append([*_method(row), cell.column, *figures, *beside, *_facts(row, cell)])
        if not row.cells:
            lines.append([*_method(row), *[_NONE] * (len(columns) - 3)])
    return Grid(columns, lines)


def _by_method(rows: Sequence[TableRow]) -> Grid:
    names = list(dict.fromkeys(cell.column for row in rows for cell in row.cells))
    lines = []
    for row in rows:
        cells = {cell.column: cell for cell in row.cells}
        figures = {n: "" if cell.published is None else f" [{cell.published}]" for n, cell in cells.items()}
        lines.append([*_method(row), *(_number(cells[n].own) + figures[n] if n in cells else _NONE for n in names)])
        for rival in dict.fromkeys(r for cell in row.cells for r in cell.baselines):
            beside = [_number(cells[n].baselines.get(rival)) if n in cells else _NONE for n in names]
            lines.append([row.data, str(row.ipc), f"{rival}, for {row.method}", *beside])
    return Grid(["data", "ipc", "trained on", *names], lines)


def _scores(table: Table) -> Grid:
    columns = ["data", "ipc", "method", "hard-label recovery", "improvement over random", "LRS", "ARS"]
    lines = []
    for row in table.rows:
        scores = fair_scores(row, table.whole)
        lines.append([*_method(row), *(_NONE if value is None else f"{value:.3f}" for value in scores)])
    return Grid(columns, lines)


def _method(row: TableRow) -> list[str]:
    return [row.data, str(row.ipc), row.method]


def _number(measured: Measured | None) -> str:
    """Return mean ± over networks, and ± over sets where there are several, in percent."""
    if measured is None:
        return _NONE
    spreads = (("networks", measured.over_networks), ("sets", measured.over_sets))
    told = [f"± {100 * value:.1f} ({name})" for name, value in spreads if value is not None]
    return " ".join([f"{100 * measured.mean:.1f}", *told])


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


def table_html(title: str, table: Table, sets: Mapping[str, Distilled]) -> str:
    """Return a table as one HTML page that needs no other file and runs no script.

    Args:
        title: Title of the page.
        table: The table.
        sets: Sets by name, whose contact sheets the page shows.
    """
    return page_template("table.html").render(
        title=clean(title),
        machine=[(clean(k), clean(str(v), 200)) for k, v in table.machine.items()],
        bars=[bar for row in table.rows for bar in _bars(row)],
        tables=[
            {"head": grid.columns, "rows": [[clean(cell, 200) for cell in line] for line in grid.rows]}
            for grid in _grids(table)
        ],
        whole="" if table.whole is None else _number(table.whole),
        notes=[clean(note, 400) for note in _notes(table)],
        sheets=[(clean(name, 80), base64.b64encode(sheet_png(each)).decode()) for name, each in sets.items()],
    )


def _bars(row: TableRow) -> list[dict[str, Any]]:
    """Return a bar of the chart for each protocol, with marks for spread, baselines and the published figure."""
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


def score_table(records: Sequence[dict[str, Any]], sets: Sequence[Distilled]) -> str:
    """Return a markdown table of the scores of some sets and of all the baselines.

    The published figure stands beside a score only if that was measured under the published protocol.

    Args:
        records: Records of `ddsdk.judging.read_scores`. A record of a distilled set counts only if the set is among
            `sets`; a record of a baseline always does.
        sets: The sets.
    """
    wanted = {s.content_id for s in sets}
    rows = {}
    for record in records:
        score, conditions = record["score"], record["conditions"]
        if conditions["set"] in wanted or score["name"] in BASELINES:
            place = record["data"], record["ipc"], conditions["evaluation"]["augmentation"]
            rows[tuple(_score_cells(record))] = *place, statistics.fmean(score["accuracies"])
    ordered = sorted(rows, key=lambda row: rows[row])
    return markdown_table(_SCORE_COLUMNS, ordered)


def _score_cells(record: dict[str, Any]) -> list[str]:
    score, evaluation = record["score"], record["conditions"]["evaluation"]
    accuracies = [100 * a for a in score["accuracies"]]
    kind = figure_kind(Evaluation.from_dict(evaluation))
    paper = None if kind is None else published(record["data"], score["name"], record["ipc"], kind)
    trained = evaluation.get("learner", "network") == "network"
    seconds = record.get("distil_seconds")
    cells = (
        record["data"],
        record["ipc"],
        score["name"],
        mean_text(accuracies) + (f" ({len(accuracies)} networks)" if trained else ""),
        _NONE if paper is None else paper,
        score["network"],
        score["protocol"],
        ", ".join(filter(None, (score.get("labels"), score.get("loss")))) or _NONE,
        evaluation["epochs"] if trained else _NONE,
        (evaluation["augmentation"].replace("_", " ") or "none") if trained else _NONE,
        score["stored_floats"],
        _NONE if seconds is None else f"{seconds:.0f} s",
    )
    return [escape_markdown(str(cell)) for cell in cells]
