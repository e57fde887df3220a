"""The benchmark's cells as a table and a plot: means and standard deviations over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ddsdk.experiments import need_plotting
from ddsdk_integrations.continual.benchmark import METHODS

Found = Mapping[str, Any]
_COLUMNS = ("accuracy, %", "forgetting, %", "backward transfer, %", "on the memory alone, %")
_FIELDS = ("accuracy", "forgetting", "backward", "memory_only")


def markdown(cells: Sequence[Found]) -> str:
    """Return a table for each scenario and learner: a row for each method and number of images.

    Args:
        cells: What `measure` returned.
    """
    lines: list[str] = []
    for scenario in _values(cells, lambda cell: cell["setting"]["scenario"]):
        there = [cell for cell in cells if cell["setting"]["scenario"] == scenario]
        for learner in _values(there, lambda cell: cell["learners"]):
            lines += [f"### {scenario}-incremental, {learner}", ""]
            lines += ["| ipc | memory | " + " | ".join(_COLUMNS) + " | bytes | memory, s | total, s | seeds |"]
            lines += ["|" + " --- |" * (len(_COLUMNS) + 6)]
            lines += [_row(group, learner) for group in _groups(there)]
            lines.append("")
    return "\n".join(lines)


def _row(group: Sequence[Found], learner: str) -> str:
    outcomes = [cell["learners"][learner] for cell in group if learner in cell["learners"]]
    told = [_told([outcome[field] for outcome in outcomes]) for field in _FIELDS]
    first = group[0]
    last = [
        str(first["bytes"]),
        f"{statistics.mean(cell['memory seconds'] for cell in group):.0f}",
        f"{statistics.mean(cell['seconds'][learner] for cell in group):.0f}",
        str(len(group)),
    ]
    ipc = "–" if first["bytes"] == 0 else str(first["cell"]["ipc"])
    return "| " + " | ".join([ipc, first["cell"]["method"], *told, *last]) + " |"


def _told(values: Sequence[float | None]) -> str:
    known = [100 * value for value in values if value is not None]
    if not known:
        return "–"
    spread = f" ± {statistics.stdev(known):.1f}" if len(known) > 1 else ""
    return f"{statistics.mean(known):.1f}{spread}"


def _values(cells: Iterable[Found], of: Any) -> list[str]:  # noqa: ANN401
    found: dict[str, None] = {}
    for cell in cells:
        value = of(cell)
        found.update(dict.fromkeys([value] if isinstance(value, str) else value))
    return list(found)


def _groups(cells: Sequence[Found]) -> list[list[Found]]:
    """Return the cells of each method and number of images, by number, then in the order of the methods' table."""
    found: dict[tuple[int, str], list[Found]] = {}
    for cell in cells:
        ipc = 0 if cell["bytes"] == 0 else cell["cell"]["ipc"]
        found.setdefault((ipc, cell["cell"]["method"]), []).append(cell)
    order = list(dict.fromkeys(method for _, method in found))
    return [found[key] for key in sorted(found, key=lambda key: (key[0], order.index(key[1])))]


def plot(cells: Sequence[Found], path: Path, *, learner: str, field: str = "accuracy") -> None:
    """Draw accuracy against the bytes of the memory, a line for each method, a panel for each scenario.

    Args:
        cells: What `measure` returned.
        path: The picture, such as of .png or .svg.
        learner: Whose.
        field: ``"accuracy"`` for replay, ``"memory_only"`` for training on the memory alone.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    need_plotting()
    from matplotlib.figure import Figure

    scenarios = _values(cells, lambda cell: cell["setting"]["scenario"])
    figure = Figure(figsize=(1 + 5 * len(scenarios), 4.2), layout="constrained")
    for place, scenario in enumerate(scenarios):
        axes = figure.add_subplot(1, len(scenarios), place + 1)
        there = [c for c in cells if c["setting"]["scenario"] == scenario and learner in c["learners"]]
        for method in _values(there, lambda cell: cell["cell"]["method"]):
            groups = [g for g in _groups(there) if g[0]["cell"]["method"] == method and g[0]["bytes"]]
            points = [(g[0]["cell"]["ipc"], [100 * cell["learners"][learner][field] for cell in g]) for g in groups]
            if points:
                heights = [statistics.mean(values) for _, values in points]
                spread = [statistics.stdev(values) if len(values) > 1 else 0.0 for _, values in points]
                # Images that are made have whole lines; real ones, and means of them, broken ones.
                style = "-" if METHODS[method].made else "--"
                axes.errorbar(
                    [ipc for ipc, _ in points],
                    heights,
                    yerr=spread,
                    marker="o",
                    capsize=2,
                    linestyle=style,
                    label=method,
                )
        axes.set_xscale("log")
        ticks = sorted({c["cell"]["ipc"] for c in there if c["bytes"]})
        axes.set_xticks(ticks, [str(t) for t in ticks])
        axes.minorticks_off()
        axes.set_title(f"{scenario}-incremental, {learner}")
        axes.set_xlabel("bytes, in real images per class")
        axes.set_ylabel("accuracy, %")
        axes.grid(alpha=0.3)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize=8)
    figure.savefig(path, dpi=120)
