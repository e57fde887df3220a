"""The benchmark's cells as tables and a plot: what each proxy's ranks are worth, beside early stopping at its cost."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ddsdk as dd
from ddsdk.experiments import markdown_table
from ddsdk.foundation import MissingExtraError, require
from ddsdk_integrations.nas.ranking import Ranking
from ddsdk_integrations.nas.verdict import Estimate, Verdict, edge, judge, rank_average

Found = Mapping[str, Any]
_HEADS = (
    "proxy",
    "ipc",
    "students",
    "seed",
    "steps",
    "Spearman, all",
    "Kendall, all",
    "Spearman, top",
    "Kendall, top",
    "regret",
    "regret of 5",
    "seconds",
    "set, s",
    "early stopping at that cost",
    "edge over as many steps",
)
_DRAWS = 1000
_LEAST = 3
_LEARNED = 2.0
"""A candidate has learned something where its accuracy is above so many times chance."""


class Line(NamedTuple):
    """A row.

    Attributes:
        cell: What it is of.
        verdict: What came out.
        edge: Spearman less that of early stopping of as many steps, where there is one.
    """

    cell: Mapping[str, Any]
    verdict: Verdict
    edge: Estimate | None = None


def lines(cells: Sequence[Found], *, above: float | None = None) -> list[Line]:
    """Judge all cells by the truth among them.

    Scores are of held-out images, the truth is of test images, so what a proxy and the truth share is the architecture
    alone. Where the truth has several seeds, two lines more tell what is possible: the test accuracies of one seed
    against those of another, and the same with held-out accuracies, which is early stopping that never stops.

    Args:
        cells: What `measure` returned.
        above: Leave out candidates whose truth is not above it.

    Raises:
        ValueError: If there is no truth.
    """
    told, truth = _measured_truth(cells), _truth(cells)
    rows: list[tuple[Mapping[str, Any], Ranking, Ranking]] = []
    blank = {"ipc": 0, "students": "", "seed": 0, "steps": 0}
    if truth.seeds > 1:
        first = truth.seed(0)
        rows.append(({**blank, "method": "truth of another seed"}, first, truth.seed(1)))
        rows.append(({**blank, "method": "whole training"}, first, told.seed(1)))
    rows += [(c["cell"], truth, Ranking.from_dict(c["ranking"])) for c in cells if not _is_truth(c)]
    rows += [(told_of, truth, joined) for told_of, joined in _joined(rows)]
    rng = dd.generator("nas", "bootstrap")
    early = {cell["steps"]: ranking for cell, _, ranking in rows if cell["method"] == "early stopping"}
    found = []
    for cell, by, ranking in rows:
        rival = early.get(cell["steps"])
        gain = None
        if rival is not None and rival is not ranking:
            gain = edge(by, ranking, rival, seed=rng, draws=_DRAWS, above=above)
        found.append(Line(cell, judge(by, ranking, seed=rng, draws=_DRAWS, above=above), gain))
    return found


def _is_truth(cell: Found) -> bool:
    return bool(cell["cell"]["method"] == "truth")


def _measured_truth(cells: Sequence[Found]) -> Ranking:
    whole = [cell for cell in cells if _is_truth(cell)]
    require(len(whole) == 1, "cells", "hold one truth", len(whole))
    return Ranking.from_dict(whole[0]["ranking"])


def _truth(cells: Sequence[Found]) -> Ranking:
    """Return the ranking by test images, or by a table."""
    told = _measured_truth(cells)
    return told.by("test", "truth") if "test" in told.extra else told


def _joined(rows: Sequence[tuple[Mapping[str, Any], Ranking, Ranking]]) -> list[tuple[Mapping[str, Any], Ranking]]:
    """Return the rank averages of synflow with the shortest early stopping: two cheap scores that differ in kind."""
    free = [ranking for cell, _, ranking in rows if cell["method"] == "synflow"]
    early = [(cell, ranking) for cell, _, ranking in rows if cell["method"] == "early stopping"]
    if not (free and early):
        return []
    cell, ranking = min(early, key=lambda one: one[0]["steps"])
    told = {"method": "early stopping + synflow", "ipc": 0, "students": "", "seed": 0, "steps": cell["steps"]}
    return [(told, rank_average([ranking, free[0]]))]


def at_cost(curve: Sequence[tuple[float, float]], seconds: float) -> float | None:
    """Return what a curve has at a cost, on lines between its points over the logarithm of the cost.

    Args:
        curve: (seconds, value), in any order.
        seconds: The cost.

    Returns:
        The value; None outside of the curve.
    """
    points = sorted(curve)
    for (low, first), (high, second) in itertools.pairwise(points):
        if low <= seconds <= high:
            share = (math.log(seconds) - math.log(low)) / (math.log(high) - math.log(low)) if high > low else 0.0
            return first + share * (second - first)
    return None


def _curve(found: Sequence[Line]) -> list[tuple[float, float]]:
    names = ("early stopping", "whole training")
    return [(one.verdict.total, one.verdict.spearman.value) for one in found if one.cell["method"] in names]


def markdown(cells: Sequence[Found]) -> str:
    """Return a table of all candidates, and one without those that never learned.

    Args:
        cells: What `measure` returned.
    """
    every, floor = lines(cells), _LEARNED / int(cells[0]["classes"])
    verdict = every[0].verdict
    parts = [f"{verdict.candidates} candidates, of which the top are {verdict.top}", "", _table(every)]
    learned = sum(value > floor for value in _truth(cells).means.values())
    if _LEAST <= learned < verdict.candidates:
        told = f"{learned} candidates whose truth is above {100 * floor:.0f} %"
        parts += [told, "", _table(lines(cells, above=floor))]
    return "\n".join(parts)


def _table(found: Sequence[Line]) -> str:
    curve = _curve(found)
    return markdown_table(_HEADS, [_row(one, curve) for one in found])


def _row(one: Line, curve: Sequence[tuple[float, float]]) -> list[str]:
    cell, v = one.cell, one.verdict
    compared = _is_compared(one)
    return [
        str(cell["method"]),
        str(cell["ipc"] or "–"),
        str(cell["students"] or "–"),
        str(cell["seed"]) if cell["ipc"] else "–",
        str(cell["steps"] or "–"),
        _interval(v.spearman),
        _interval(v.kendall),
        _interval(v.top_spearman),
        _interval(v.top_kendall),
        f"{100 * v.regret:.2f}",
        f"{100 * v.regret_of_five:.2f}",
        f"{v.seconds:.0f}",
        f"{v.before:.0f}" if v.before else "–",
        _number(at_cost(curve, v.total)) if compared else "–",
        _interval(one.edge, sign="+") if one.edge else "–",
    ]


def _is_compared(one: Line) -> bool:
    """Tell whether a line is to be compared with early stopping, and is no part of that."""
    return one.cell["method"] not in ("early stopping", "whole training", "truth of another seed")


def _interval(value: Estimate, sign: str = "") -> str:
    if math.isnan(value.value):
        return "–"
    return f"{value.value:{sign}.2f} ({value.low:{sign}.2f} to {value.high:{sign}.2f})"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def plot(cells: Sequence[Found], path: Path) -> None:
    """Draw Spearman's correlation over all candidates against seconds, with intervals.

    Early stopping is a line; a set is a point at its whole cost, with a thin line back to what it costs where
    the set is free.

    Args:
        cells: What `measure` returned.
        path: The picture, such as of .png or .svg.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise MissingExtraError("a picture of the benchmark", "matplotlib", "bench") from None
    found = lines(cells)
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    curve = sorted(_curve(found))
    axes.plot([x for x, _ in curve], [y for _, y in curve], "k-", label="early stopping")
    names = list(dict.fromkeys(str(one.cell["method"]) for one in found if _is_compared(one)))
    for i, one in enumerate(found):
        if one.cell["method"] == "truth of another seed":
            level = one.verdict.spearman.value
            axes.axhline(level, color="grey", linestyle="--", label="truth of another seed")
        elif not math.isnan(one.verdict.spearman.value):
            colour = f"C{names.index(one.cell['method']) % 10}" if _is_compared(one) else "k"
            _draw_point(axes, one, colour, "osD^v"[i % 5])
    axes.set_xscale("log")
    axes.set_xlabel("seconds for all candidates, the set included")
    axes.set_ylabel("Spearman's correlation with the truth")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right center", fontsize=7)
    figure.savefig(path, dpi=120)


def _draw_point(axes: Any, one: Line, colour: str, marker: str) -> None:  # noqa: ANN401
    cell, v = one.cell, one.verdict
    words = [str(cell["method"]), f"ipc {cell['ipc']}" if cell["ipc"] else "", str(cell["students"])]
    label = ", ".join(filter(None, words)) if _is_compared(one) else None
    # What costs less than a tenth of a second has no place on the axis.
    x, value = max(v.total, 0.1), v.spearman.value
    around = [[value - v.spearman.low], [v.spearman.high - value]]
    axes.errorbar([x], [value], yerr=around, label=label, fmt=marker, color=colour, markersize=5, elinewidth=0.5)
    axes.plot([max(v.seconds, 0.1), x], [value, value], color=colour, linewidth=0.7)
