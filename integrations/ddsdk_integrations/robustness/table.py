"""The benchmark's cells as a table and a plot of accuracy against the radius."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ddsdk.experiments import markdown_table, need_plotting, percent

Found = Mapping[str, Any]


def markdown(cells: Sequence[Found]) -> str:
    """Return the table, a row for each cell: clean accuracy, and what the worst attack leaves at each radius.

    Args:
        cells: What `measure` returned, under one setting.
    """
    radii = [radius for radius, _ in cells[0]["worst"]]
    head = [
        "set",
        "images per class",
        "clean, %",
        *(f"linf {radius:g}, %" for radius in radii),
        "AutoAttack, %",
        "s to distil",
        "s to train",
        "s to attack",
        "warnings",
    ]
    ordered = sorted(cells, key=lambda cell: (cell["cell"]["ipc"] == 0, cell["cell"]["ipc"]))
    told = [f"- {cell['name']}, {_size(cell)}: {warning}" for cell in ordered for warning in cell["warnings"]]
    return markdown_table(head, [_row(cell, radii) for cell in ordered]) + "\n".join(["", *told, ""])


def _size(cell: Found) -> str:
    return str(cell["cell"]["ipc"]) if cell["cell"]["ipc"] else "real"


def _row(cell: Found, radii: Sequence[float]) -> list[str]:
    worst = dict(map(tuple, cell["worst"]))
    auto = [left for name, _, left in cell["attacks"] if name == "AutoAttack"]
    return [
        cell["name"],
        _size(cell),
        percent(cell["clean"]),
        *(percent(worst[radius]) for radius in radii),
        percent(auto[0]) if auto else "–",
        f"{cell['seconds_distil']:.0f}",
        f"{cell['seconds_train']:.0f}",
        f"{cell['seconds']:.0f}",
        str(len(cell["warnings"])),
    ]


def plot(cells: Sequence[Found], path: Path) -> None:
    """Draw what the worst attack leaves against the radius, a panel for each number of images per class.

    Args:
        cells: What `measure` returned.
        path: The picture, such as of .png or .svg.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    need_plotting()
    from matplotlib.figure import Figure

    sizes = sorted({cell["cell"]["ipc"] for cell in cells} - {0}) or [0]
    names = list(dict.fromkeys(cell["name"] for cell in cells))
    figure = Figure(figsize=(4.2 * len(sizes) + 3, 4), layout="constrained")
    panels = figure.subplots(1, len(sizes), sharey=True, squeeze=False)[0]
    for axes, ipc in zip(panels, sizes, strict=True):
        for cell in cells:
            if cell["cell"]["ipc"] not in (ipc, 0):
                continue
            i = names.index(cell["name"])
            x = [0.0, *(radius for radius, _ in cell["worst"])]
            y = [100 * statistics.mean(v) for v in (cell["clean"], *(left for _, left in cell["worst"]))]
            style = "--" if "adversarial training" in cell["name"] else "-"
            colour = "black" if cell["cell"]["ipc"] == 0 else f"C{i % 10}"
            axes.plot(x, y, style, marker="os^Dv*PX"[i % 8], color=colour, label=cell["name"], markersize=4)
        axes.set_title(f"{ipc} per class" if ipc else "real images")
        axes.set_xlabel("radius (linf, unit range)")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("accuracy under the worst attack, %")
    known = {label: line for axes in panels for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(list(known.values()), list(known), loc="outside right center", fontsize=8)
    figure.savefig(path, dpi=120)
