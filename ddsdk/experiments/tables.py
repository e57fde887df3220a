"""Tables of scores beside the published figures, in markdown."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from typing import Any

from ddsdk.artefact import Distilled
from ddsdk.baselines import BASELINES
from ddsdk.experiments.pages import markdown_table, mean_text
from ddsdk.experiments.published import Under, published
from ddsdk.foundation import escape_markdown
from ddsdk.training import Evaluation

_COLUMNS = (
    "data",
    "ipc",
    "trained on",
    "accuracy, %",
    "published, %",
    "network",
    "protocol",
    "labels, loss",
    "epochs",
    "augmentation",
    "floats",
    "distilled in",
)


def score_table(records: Sequence[dict[str, Any]], sets: Sequence[Distilled]) -> str:
    """Return a markdown table of the scores of some sets and of all the baselines.

    Args:
        records: What `ddsdk.read_scores` returned. A record of a distilled set counts only if the set is
            among `sets`; a record of a baseline always does.
        sets: The sets.

    The published figure stands beside a score only if that was measured under the published protocol.
    """
    wanted = {s.content_id for s in sets}
    rows = {}
    for record in records:
        if record["conditions"]["set"] in wanted or record["score"]["name"] in BASELINES:
            rows[tuple(_cells(record))] = _order(record)
    ordered = sorted(rows, key=lambda row: rows[row])
    return markdown_table(_COLUMNS, ordered)


def _order(record: dict[str, Any]) -> tuple[Any, ...]:
    evaluation = record["conditions"]["evaluation"]
    return record["data"], record["ipc"], evaluation["augmentation"], statistics.fmean(_accuracies(record))


def figure_kind(evaluation: Evaluation, own: Evaluation | None = None) -> Under | None:
    """Return which published figures are comparable with what a protocol gives; None for none.

    Args:
        evaluation: The protocol. How many networks it trains does not count, and neither do its labels, which are the
            method's own affair as long as an ordinary network trains on them.
        own: That of the method.
    """
    exact = Evaluation.published(evaluation.augmentation)
    if dataclasses.replace(evaluation, networks=exact.networks, labels=exact.labels) == exact:
        return "augmented" if evaluation.augmentation else "plain"
    # The figures of kernel methods are those of finite networks, and no kernel machine's.
    if own is None or own.learner == "kernel":
        return None
    return "own" if dataclasses.replace(evaluation, networks=own.networks) == own else None


def _accuracies(record: dict[str, Any]) -> list[float]:
    return [100 * a for a in record["score"]["accuracies"]]


def _cells(record: dict[str, Any]) -> list[str]:
    score, evaluation = record["score"], record["conditions"]["evaluation"]
    accuracies = _accuracies(record)
    kind = figure_kind(Evaluation.from_dict(evaluation))
    paper = None if kind is None else published(record["data"], score["name"], record["ipc"], kind)
    trained = evaluation.get("learner", "network") == "network"
    seconds = record.get("distil_seconds")
    cells = (
        record["data"],
        record["ipc"],
        score["name"],
        mean_text(accuracies) + (f" ({len(accuracies)} networks)" if trained else ""),
        "–" if paper is None else paper,
        score["network"],
        score["protocol"],
        ", ".join(filter(None, (score.get("labels"), score.get("loss")))) or "–",
        evaluation["epochs"] if trained else "–",
        (evaluation["augmentation"].replace("_", " ") or "none") if trained else "–",
        score["stored_floats"],
        "–" if seconds is None else f"{seconds:.0f} s",
    )
    return [escape_markdown(str(cell)) for cell in cells]
