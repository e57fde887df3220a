"""The benchmark's cells as a table and a plot of accuracy against time."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ddsdk.experiments import markdown_table
from ddsdk.foundation import MissingExtraError
from ddsdk_integrations.graph.benchmark import PUBLISHED

Found = Mapping[str, Any]
Key = tuple[str, int]
_KERNEL = "kernel"
_SIZES = {"nodes": "nodes", "ipc": "graphs of each class"}
"""Fields of cells that say how large a set is, and what tables call them."""


def markdown(cells: Sequence[Found], data: str) -> str:
    """Return the table, a row for each method and size: mean and deviation over condensations.

    Args:
        cells: What `measure` returned.
        data: Name of the graph, for published figures.
    """
    networks = list(dict.fromkeys(name for cell in cells for name in cell["scores"]))
    shown = [n for n in networks if n != _KERNEL] + [n for n in networks if n == _KERNEL]
    titles = [f"{n}, %" if n != _KERNEL else "by its own kernel, %" for n in shown]
    head = ["method", _SIZES[_size(cells[0])], *titles, "published, %", "kB", "edges", "seconds", "runs"]
    rows = []
    for key in sorted({_key(cell) for cell in cells}, key=lambda k: (k[1] == 0, k[1], k[0])):
        group = [cell for cell in cells if _key(cell) == key]
        told = [key[0], str(key[1] or "all"), *(_scores(group, network) for network in shown)]
        told += [_published(key, data), _mean(group, "bytes", 1000), _mean(group, "edges", 1)]
        told += [_mean(group, "seconds", 1), str(len(group))]
        rows.append(told)
    return markdown_table(head, rows)


def _size(cell: Found) -> str:
    return next(name for name in _SIZES if name in cell["cell"])


def _key(cell: Found) -> Key:
    return cell["cell"]["method"], cell["cell"][_size(cell)]


def _scores(group: Sequence[Found], network: str) -> str:
    means = [100 * cell["scores"][network]["mean"] for cell in group if network in cell["scores"]]
    if not means:
        return "–"
    spread = statistics.stdev(means) if len(means) > 1 else 100 * group[0]["scores"][network]["spread"]
    return f"{statistics.fmean(means):.1f} ± {spread:.1f}"


def _published(key: Key, data: str) -> str:
    found = PUBLISHED.get((data, *key))
    return "–" if found is None else f"{found:.1f}"


def _mean(group: Sequence[Found], name: str, unit: float) -> str:
    values = [cell[name] / unit for cell in group if name in cell]
    return f"{statistics.fmean(values):.0f}" if values else "–"


def plot(cells: Sequence[Found], path: Path) -> None:
    """Draw accuracy of GCN against seconds of condensation, a line for each method over its sizes; no kernels.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise MissingExtraError("A plot", "matplotlib", "bench") from None
    figure = Figure(figsize=(7, 4.5))
    axes = figure.subplots()
    for i, method in enumerate(dict.fromkeys(cell["cell"]["method"] for cell in cells)):
        mine = [cell for cell in cells if cell["cell"]["method"] == method]
        points = [_point(mine, key) for key in sorted({_key(cell) for cell in mine})]
        if any("seconds" not in cell for cell in mine):
            axes.axhline(points[0][1], color="black", linewidth=0.8, label=method)
        else:
            axes.plot(*zip(*points, strict=True), marker="os^Dv"[i % 5], label=method)
    axes.set_xscale("log")
    axes.set_xlabel("seconds of condensation")
    axes.set_ylabel("GCN on the test set, %")
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def _point(cells: Sequence[Found], key: Key) -> tuple[float, float]:
    mine = [cell for cell in cells if _key(cell) == key]
    seconds = statistics.fmean(max(0.01, cell.get("seconds", 0.0)) for cell in mine)
    return seconds, 100 * statistics.fmean(cell["scores"]["gcn"]["mean"] for cell in mine)
