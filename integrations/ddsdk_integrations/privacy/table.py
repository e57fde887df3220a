"""The benchmark's cells as a table and a plot of accuracy against epsilon."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ddsdk.experiments import need_plotting
from ddsdk_integrations.privacy.benchmark import PUBLISHED

Found = Mapping[str, Any]
_HEAD = "| method | images per class | epsilon | accuracy, % | published, % | by its own kernel, % | seconds | runs |"


def markdown(cells: Sequence[Found]) -> str:
    """Return the table, a row for each method, size and epsilon: the mean over runs.

    Args:
        cells: What `measure` returned.
    """
    keys = dict.fromkeys(_key(cell) for cell in cells)
    lines = [_HEAD, "|" + " --- |" * 8]
    for key in sorted(keys, key=lambda k: (k[1] is None, k[1] or 0, k[2], -_mean(cells, k))):
        lines.append(_row(key, [cell for cell in cells if _key(cell) == key]))
    return "\n".join([*lines, ""])


def _key(cell: Found) -> tuple[str, float | None, int]:
    one = cell["cell"]
    return one["method"], one["epsilon"], one["ipc"]


def _mean(cells: Sequence[Found], key: tuple[str, float | None, int]) -> float:
    return float(statistics.mean(cell["accuracy"] for cell in cells if _key(cell) == key))


def _row(key: tuple[str, float | None, int], group: Sequence[Found]) -> str:
    method, epsilon, ipc = key
    spread = group[0].get("deviation") if len(group) == 1 else statistics.stdev(c["accuracy"] for c in group)
    accuracy = f"{100 * statistics.mean(cell['accuracy'] for cell in group):.1f}"
    kernels = [cell["kernel"] for cell in group if cell.get("kernel") is not None]
    told = [
        method,
        str(ipc) if ipc else "a classifier",
        "none" if epsilon is None else f"{epsilon:g}",
        accuracy + (f" ± {100 * spread:.1f}" if spread is not None else ""),
        f"{PUBLISHED[key]:.1f}" if key in PUBLISHED else "–",
        f"{100 * statistics.mean(kernels):.1f}" if kernels else "–",
        f"{statistics.mean(cell['seconds'] for cell in group):.0f}",
        str(len(group)),
    ]
    return "| " + " | ".join(told) + " |"


def plot(cells: Sequence[Found], path: Path) -> None:
    """Draw accuracy against epsilon, a line for each method and size, with published figures as crosses.

    Args:
        cells: What `measure` returned.
        path: The picture, such as of .png or .svg.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    need_plotting()
    from matplotlib.figure import Figure

    budgets = sorted({key[1] for key in map(_key, cells) if key[1] is not None})
    places: dict[float | None, int] = {epsilon: i for i, epsilon in enumerate([*budgets, None])}
    figure = Figure(figsize=(7.5, 4.4), layout="constrained")
    axes = figure.subplots()
    lines = dict.fromkeys((key[0], key[2]) for key in map(_key, cells))
    for i, (method, ipc) in enumerate(lines):
        keys = [(method, epsilon, ipc) for epsilon in places]
        keys = [key for key in keys if any(_key(cell) == key for cell in cells)]
        label = f"{method}, {ipc} per class" if ipc else f"{method}, a classifier"
        x, y = [places[key[1]] for key in keys], [100 * _mean(cells, key) for key in keys]
        axes.plot(x, y, marker="os^Dv"[i % 5], color=f"C{i % 10}", label=label, markersize=5)
        known = [key for key in keys if key in PUBLISHED]
        axes.plot([places[k[1]] for k in known], [PUBLISHED[k] for k in known], "x", color=f"C{i % 10}")
    axes.plot([], [], "x", color="grey", label="published")
    axes.set_xticks(list(places.values()), [*(f"{b:g}" for b in budgets), "no privacy"])
    axes.set_xlabel("epsilon")
    axes.set_ylabel("accuracy, %")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right center", fontsize=8)
    figure.savefig(path, dpi=120)
