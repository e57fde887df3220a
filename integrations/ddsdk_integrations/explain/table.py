"""The benchmark's cells as a table and a plot."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ddsdk.experiments import by_method, empty_figure, markdown_table

Found = Mapping[str, Any]
_HEADS = (
    "training images ranked by",
    "rank correlation with leave-one-out",
    "correlation",
    "of its ten shared, %",
    "same class, %",
    "LDS",
    "floats kept",
    "seconds",
)
_SET_HEADS = ("set", "accuracy, %", "condition", "removed", "named", "random", "least")


def markdown(cells: Sequence[Found]) -> str:
    """Return two tables: rankings of training images, and what removal of synthetic ones does.

    Args:
        cells: What `measure` returned.
    """
    groups = by_method(cells)
    ranked = markdown_table(_HEADS, [_ranking(name, group) for name, group in groups.items()])
    # Two ways to rank may go through one set.
    sets = {n: g for n, g in groups.items() if n.startswith("through")}
    removed = [row for name, group in sets.items() for row in _removals(name, group)]
    return ranked + "\n" + markdown_table(_SET_HEADS, removed)


def _mean(group: Sequence[Found], read: Callable[[Found], float]) -> float:
    return statistics.fmean(read(cell) for cell in group)


def _ranking(name: str, group: Sequence[Found]) -> list[str]:
    kept = group[0]["floats"] or group[0]["training floats"]
    return [
        name,
        f"{_mean(group, lambda c: c['rank correlation']):.2f}",
        f"{_mean(group, lambda c: c['correlation']):.2f}",
        f"{100 * _mean(group, lambda c: c['shared']):.0f}",
        f"{100 * _mean(group, lambda c: c['same class']):.0f}",
        f"{_mean(group, lambda c: c['lds']):.2f}",
        str(kept),
        f"{_mean(group, lambda c: c['seconds']):.1f}",
    ]


def _removals(name: str, group: Sequence[Found]) -> list[list[str]]:
    rows = []
    for i, one in enumerate(group[0]["removal"]):
        falls = [
            f"{_mean(group, lambda c, i=i, kind=kind: c['removal'][i][kind]):.3f}"  # type: ignore[misc]
            for kind in ("top", "random", "least")
        ]
        told = [f"{100 * _mean(group, lambda c: c['accuracy']):.1f}", f"{group[0]['condition']:.1e}"]
        rows.append([name.removeprefix("through "), *told, str(one["count"]), *falls])
    return rows


def plot(cells: Sequence[Found], path: Path) -> None:
    """Draw the fall of the predicted score against the synthetic images removed, and the rank correlations.

    Args:
        cells: What `measure` returned.
        path: The picture, such as of .png or .svg.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    figure = empty_figure(9, 3.6)
    left, right = figure.subplots(1, 2)
    methods = list(by_method(cells))
    for i, name in enumerate(n for n in methods if n.startswith("through")):
        group = [c for c in cells if c["cell"]["method"] == name]
        counts = [one["count"] for one in group[0]["removal"]]
        for kind, style in (("top", "-o"), ("random", ":s")):
            falls = [statistics.fmean(c["removal"][k][kind] for c in group) for k in range(len(counts))]
            label = f"{name.removeprefix('through ')}, {'named' if kind == 'top' else 'random'}"
            left.plot(counts, falls, style, color=f"C{i}", label=label, markersize=4)
    left.set_xlabel("synthetic images removed")
    left.set_ylabel("fall of the predicted score")
    left.legend(fontsize=7)
    values = [statistics.fmean(c["correlation"] for c in cells if c["cell"]["method"] == n) for n in methods]
    right.barh(methods[::-1], values[::-1])
    right.set_xlabel("correlation with leave-one-out")
    figure.savefig(path, dpi=120)
