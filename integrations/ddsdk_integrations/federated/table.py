"""The benchmark's cells as a table and a plot of accuracy against bytes."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ddsdk.experiments import need_plotting
from ddsdk_integrations.federated.benchmark import METHODS

Found = Mapping[str, Any]
_HEAD = (
    "| method | rounds | accuracy, % | MB up | MB down | MB in all | fedavg's accuracy at these bytes, % "
    "| largest share of a class | seconds | seeds |"
)


def markdown(cells: Sequence[Found]) -> str:
    """Return a table for each concentration, a row for each method: the last round, the mean over seeds.

    Args:
        cells: What `measure` returned.
    """
    lines: list[str] = []
    for alpha in dict.fromkeys(cell["cell"]["alpha"] for cell in cells):
        there = [cell for cell in cells if cell["cell"]["alpha"] == alpha]
        lines += [f"### Dirichlet {alpha}", "", _HEAD, "|" + " --- |" * 10]
        for method in dict.fromkeys(cell["cell"]["method"] for cell in there):
            lines.append(_row([c for c in there if c["cell"]["method"] == method], there))
        lines.append("")
    return "\n".join(lines)


def _row(group: Sequence[Found], there: Sequence[Found]) -> str:
    last = [cell["curve"][-1] for cell in group]
    up, down = (statistics.mean(point[name] for point in last) / 1e6 for name in ("up", "down"))
    shares = [cell["share"] for cell in group if cell["share"] is not None]
    told = [
        group[0]["cell"]["method"],
        str(last[0]["round"]),
        _told([point["accuracy"] for point in last]),
        *(f"{value:.3f}" for value in (up, down, up + down)),
        _told(_averaged_at(there, group)),
        f"{100 * max(shares):.0f} %" if shares else "–",
        f"{statistics.mean(cell['seconds'] for cell in group):.0f}",
        str(len(group)),
    ]
    return "| " + " | ".join(told) + " |"


def _averaged_at(there: Sequence[Found], group: Sequence[Found]) -> list[float]:
    """Return what FedAvg had after its last round that cost no more than the whole run of a method, seed by seed."""
    curves = {c["cell"]["seed"]: c["curve"] for c in there if c["cell"]["method"] == "fedavg"}
    found = []
    for cell in group:
        total = _bytes(cell["curve"][-1])
        affordable = [p["accuracy"] for p in curves.get(cell["cell"]["seed"], []) if _bytes(p) <= total]
        found += affordable[-1:]
    return found


def _bytes(point: Mapping[str, float]) -> float:
    return point["up"] + point["down"]


def _told(values: Sequence[float]) -> str:
    if not values:
        return "–"
    spread = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.1f}{spread}"


def plot(cells: Sequence[Found], path: Path) -> None:
    """Draw accuracy against all bytes so far, round by round, a panel for each concentration.

    Args:
        cells: What `measure` returned; of several seeds the first is drawn.
        path: The picture, such as of .png or .svg.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    need_plotting()
    from matplotlib.figure import Figure

    alphas = list(dict.fromkeys(cell["cell"]["alpha"] for cell in cells))
    methods = list(dict.fromkeys(cell["cell"]["method"] for cell in cells))
    figure = Figure(figsize=(2 + 4 * len(alphas), 4.2), layout="constrained")
    panels = figure.subplots(1, len(alphas), sharex=True, sharey=True, squeeze=False)[0]
    handles = {}
    for axes, alpha in zip(panels, alphas, strict=True):
        for place, method in enumerate(methods):
            told = (alpha, method)
            curves = [c["curve"] for c in cells if (c["cell"]["alpha"], c["cell"]["method"]) == told]
            if curves:
                (handles[method],) = axes.plot(
                    [_bytes(point) / 1e6 for point in curves[0][1:]],
                    [100 * point["accuracy"] for point in curves[0][1:]],
                    # Sets have whole lines, weights broken ones.
                    linestyle="-" if METHODS[method].sets else "--",
                    color=f"C{place % 10}",
                    marker="os^Dv"[place // 10],
                    markersize=4,
                )
        axes.set_xscale("log")
        axes.set_title(f"Dirichlet {alpha}")
        axes.set_xlabel("MB, up and down")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("accuracy, %")
    figure.legend(list(handles.values()), list(handles), loc="outside right center", fontsize=8)
    figure.savefig(path, dpi=120)
