"""Benchmark tables as markdown and as an HTML page with a chart and distilled images; score tables as markdown."""

from __future__ import annotations

import base64
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ddsdk.artefact import Distilled, page_template, sheet_png
from ddsdk.baselines import BASELINES
from ddsdk.experiments.dd_ranking import (
    augmentation_robust_score,
    hard_label_recovery,
    improvement_over_random,
    label_robust_score,
)
from ddsdk.experiments.protocol_columns import NO_AUGMENTATION
from ddsdk.experiments.published import comparable_kind, published
from ddsdk.experiments.rendering import markdown_table, mean_text
from ddsdk.experiments.table import ProtocolAccuracies, ProtocolResult, Table, TableRow
from ddsdk.foundation import clean, escape_markdown
from ddsdk.judging import stored_protocol
from ddsdk.training import TrainingProtocol

_NONE = "–"
_SCORE_COLUMNS = (
    *("data", "ipc", "trained on", "accuracy, %", "published, %", "network"),
    *("protocol", "labels, loss", "epochs", "augmentation", "floats", "distilled in"),
)


class DDRankingScores(NamedTuple):
    """Scores of `ddsdk.experiments.dd_ranking`; None for a score with a missing accuracy.

    Attributes:
        recovery: Hard-label recovery (HLR), lower is better.
        improvement: Improvement over random images (IOR), higher is better.
        lrs: Label-robust score (LRS) in 0..1, higher is better.
        ars: Augmentation-robust score (ARS) in 0..1, higher is better.
    """

    recovery: float | None
    improvement: float | None
    lrs: float | None
    ars: float | None


def dd_ranking_scores(row: TableRow, whole: ProtocolAccuracies | None, baseline: str = "random") -> DDRankingScores:
    """Return the DD-Ranking scores of a row of the table ``fair-scores``.

    Args:
        row: Row of the table ``fair-scores``.
        whole: Accuracies of networks trained on the full training set; None leaves out HLR and LRS.
        baseline: Name of the baseline of random images.
    """
    cells = {cell.column: cell for cell in row.cells}
    hard, own = cells.get("hard labels"), cells.get("own")
    without_augmentation = cells.get(NO_AUGMENTATION, own)
    recovery = None
    if whole is not None and hard is not None and hard.own is not None:
        recovery = hard_label_recovery(whole.mean, hard.own.mean)
    improvement, plain = _improvement(own, baseline), _improvement(without_augmentation, baseline)
    return DDRankingScores(
        recovery,
        improvement,
        None if recovery is None or improvement is None else label_robust_score(recovery, improvement),
        None if improvement is None or plain is None else augmentation_robust_score(improvement, plain),
    )


def _improvement(cell: ProtocolResult | None, baseline: str) -> float | None:
    if cell is None or cell.own is None or baseline not in cell.baselines:
        return None
    return improvement_over_random(cell.own.mean, cell.baselines[baseline].mean)


class TextTable(NamedTuple):
    """Table of text cells.

    Attributes:
        columns: Heads of the columns, from left to right.
        rows: Rows with a cell for each column.
    """

    columns: list[str]
    rows: list[list[str]]


def _text_tables(table: Table) -> list[TextTable]:
    """Return a table as text cells.

    ``survey-1`` and ``fair-scores`` have a row for each method and protocol and a column for each baseline. Tables of
    many protocols have a row for each method or baseline and a column for each protocol.
    """
    if table.table not in ("survey-1", "fair-scores"):
        return [_by_method(table.rows)]
    return [_by_protocol(table.rows), *([_score_rows(table)] if table.table == "fair-scores" else [])]


def table_markdown(table: Table) -> str:
    """Return a table as markdown, with a line for each error.

    Args:
        table: Measured table, such as the result of `read_table`.

    Examples:
        >>> from ddsdk.experiments.table import Table, TableRow
        >>> row = TableRow(data="digits", ipc=1, method="dm", parameters={}, student={})
        >>> table_markdown(Table(table="survey-1", rows=(row,))).startswith("| data | ipc | method |")
        True
    """
    parts = []
    for text in _text_tables(table):
        heads, *rows = ([escape_markdown(cell) for cell in line] for line in (text.columns, *text.rows))
        parts.append(markdown_table(heads, rows))
    if table.whole is not None:
        parts.append(f"Trained on all of the training data: {_percent(table.whole)} %.\n")
    notes = [f"- {escape_markdown(note, 400)}" for note in _notes(table)]
    return "\n".join([*parts, *(["\n".join(notes) + "\n"] if notes else [])])


def _notes(table: Table) -> list[str]:
    return [f"{row.method}, ipc {row.ipc}: {row.note}" for row in table.rows if row.note]


def _by_protocol(rows: Sequence[TableRow]) -> TextTable:
    baselines = list(dict.fromkeys(name for row in rows for cell in row.cells for name in cell.baselines))
    columns = ["data", "ipc", "method", "judged by", "accuracy, %", "published, %", *[f"{b}, %" for b in baselines]]
    columns += ["labels", "augmentation", "learned lr", "floats", "distilled in"]
    lines = []
    for row in rows:
        for cell in row.cells:
            baseline_accuracies = [_percent(cell.baselines.get(baseline)) for baseline in baselines]
            accuracies = [_percent(cell.own), _NONE if cell.published is None else f"{cell.published}"]
            lines.append([*_method(row), cell.column, *accuracies, *baseline_accuracies, *_facts(row, cell)])
        if not row.cells:
            lines.append([*_method(row), *[_NONE] * (len(columns) - 3)])
    return TextTable(columns, lines)


def _by_method(rows: Sequence[TableRow]) -> TextTable:
    names = list(dict.fromkeys(cell.column for row in rows for cell in row.cells))
    lines = []
    for row in rows:
        cells = {cell.column: cell for cell in row.cells}
        published_accuracies = {n: "" if c.published is None else f" [{c.published}]" for n, c in cells.items()}
        accuracies = [_percent(cells[n].own) + published_accuracies[n] if n in cells else _NONE for n in names]
        lines.append([*_method(row), *accuracies])
        for baseline in dict.fromkeys(name for cell in row.cells for name in cell.baselines):
            accuracies = [_percent(cells[n].baselines.get(baseline)) if n in cells else _NONE for n in names]
            lines.append([row.data, str(row.ipc), f"{baseline}, for {row.method}", *accuracies])
    return TextTable(["data", "ipc", "trained on", *names], lines)


def _score_rows(table: Table) -> TextTable:
    columns = ["data", "ipc", "method", "hard-label recovery", "improvement over random", "LRS", "ARS"]
    lines = []
    for row in table.rows:
        scores = dd_ranking_scores(row, table.whole)
        lines.append([*_method(row), *(_NONE if value is None else f"{value:.3f}" for value in scores)])
    return TextTable(columns, lines)


def _method(row: TableRow) -> list[str]:
    return [row.data, str(row.ipc), row.method]


def _percent(accuracies: ProtocolAccuracies | None) -> str:
    """Return the mean in percent with the standard deviations over networks and over sets."""
    if accuracies is None:
        return _NONE
    deviations = (("networks", accuracies.over_networks), ("sets", accuracies.over_sets))
    texts = [f"± {100 * value:.1f} ({name})" for name, value in deviations if value is not None]
    return " ".join([f"{100 * accuracies.mean:.1f}", *texts])


def _facts(row: TableRow, cell: ProtocolResult) -> list[str]:
    seconds = [s for s in row.seconds if s is not None]
    labels = cell.protocol.get("labels", "stored")
    kind = row.labels if labels == "stored" or row.labels == "hard" else f"{row.labels} as {labels}"
    return [
        f"{kind} of a teacher" if row.teacher else kind,
        str(cell.protocol["augmentation"]).replace("_", " ") or "none",
        "yes" if row.learned_lr else "no",
        str(row.floats),
        f"{sum(seconds) / len(seconds):.0f} s" if seconds else _NONE,
    ]


def table_html(title: str, table: Table, sets: Mapping[str, Distilled]) -> str:
    """Return a table as one self-contained HTML page without scripts.

    Args:
        title: Title of the page, as plain text.
        table: Measured table, such as the result of `read_table`.
        sets: Distilled sets by name; the page shows their images.
    """
    return page_template("table.html").render(
        title=clean(title),
        machine=[(clean(k), clean(str(v), 200)) for k, v in table.machine.items()],
        bars=[bar for row in table.rows for bar in _bars(row)],
        tables=[
            {"head": text.columns, "rows": [[clean(cell, 200) for cell in line] for line in text.rows]}
            for text in _text_tables(table)
        ],
        whole="" if table.whole is None else _percent(table.whole),
        notes=[clean(note, 400) for note in _notes(table)],
        sheets=[(clean(name, 80), base64.b64encode(sheet_png(images)).decode()) for name, images in sets.items()],
    )


def _bars(row: TableRow) -> list[dict[str, Any]]:
    """Return a bar for each protocol, with standard deviation, baselines and published accuracy, in percent."""
    bars = []
    for cell in row.cells:
        if cell.own is None:
            continue
        deviation = cell.own.over_sets or cell.own.over_networks or 0.0
        baselines = [(clean(name, 30), 100 * accuracies.mean) for name, accuracies in cell.baselines.items()]
        high = 100 * min(1.0, cell.own.mean + deviation)
        bars.append(
            {
                "name": clean(f"{row.method}, ipc {row.ipc}: {cell.column}", 60),
                "mean": 100 * cell.own.mean,
                "low": 100 * max(0.0, cell.own.mean - deviation),
                "high": high,
                "end": max([high, cell.published or 0.0, *(value for _, value in baselines)]),
                "text": _percent(cell.own),
                "published": cell.published,
                "rivals": baselines,
            }
        )
    return bars


def score_table(records: Sequence[dict[str, Any]], sets: Sequence[Distilled]) -> str:
    """Return a markdown table of the scores of distilled sets and baselines, with published accuracies.

    A published accuracy is printed only for a score under the protocol of its paper: the published one, or for some
    methods the protocol that is stored in the set.

    Args:
        records: Records of `ddsdk.judging.read_scores`, those of other distilled sets included.
        sets: Distilled sets of the table. All baselines in `records` are also in the table.

    Examples:
        >>> score_table([], [])[:33]
        '| data | ipc | trained on | accur'
    """
    own_protocols = {s.content_id: stored_protocol(s) for s in sets}
    rows = {}
    for record in records:
        score, conditions = record["score"], record["conditions"]
        if conditions["set"] in own_protocols or score["name"] in BASELINES:
            sort_key = record["data"], record["ipc"], conditions["protocol"]["augmentation"]
            cells = _score_cells(record, own_protocols.get(conditions["set"]))
            rows[tuple(cells)] = *sort_key, statistics.fmean(score["accuracies"])
    ordered = sorted(rows, key=lambda row: rows[row])
    return markdown_table(_SCORE_COLUMNS, ordered)


def _score_cells(record: dict[str, Any], own: TrainingProtocol | None) -> list[str]:
    score, protocol = record["score"], record["conditions"]["protocol"]
    accuracies = [100 * a for a in score["accuracies"]]
    kind = comparable_kind(TrainingProtocol.from_dict(protocol), own)
    published_accuracy = None if kind is None else published(record["data"], score["name"], record["ipc"], kind)
    trained = protocol.get("learner", "network") == "network"
    seconds = record.get("distil_seconds")
    cells = (
        record["data"],
        record["ipc"],
        score["name"],
        mean_text(accuracies) + (f" ({len(accuracies)} networks)" if trained else ""),
        _NONE if published_accuracy is None else published_accuracy,
        score["network"],
        score["protocol"],
        ", ".join(filter(None, (score.get("labels"), score.get("loss")))) or _NONE,
        protocol["epochs"] if trained else _NONE,
        (protocol["augmentation"].replace("_", " ") or "none") if trained else _NONE,
        score["stored_floats"],
        _NONE if seconds is None else f"{seconds:.0f} s",
    )
    return [escape_markdown(str(cell)) for cell in cells]
