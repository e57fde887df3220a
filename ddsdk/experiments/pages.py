"""Tables in markdown and pictures of measured values."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ddsdk.foundation import MissingExtraError

_MARKERS = "os^Dv*PXhp"


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table, a line for each row, with a line feed at its end. A row has as many cells as there are heads."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def mean_text(values: Sequence[float], *, scale: float = 1.0, digits: int = 1) -> str:
    """Return the mean of values times `scale`, with the sample standard deviation where there are several.

    Args:
        values: Numbers; a dash stands for none.
        scale: Factor, such as 100 for percent.
        digits: Digits behind the point.
    """
    if not values:
        return "–"
    mean = f"{scale * statistics.fmean(values):.{digits}f}"
    return f"{mean} ± {scale * statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean


def need_plotting() -> None:
    """Raise MissingExtraError where matplotlib is not installed: at once, and not when a picture is drawn."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise MissingExtraError("a picture", "matplotlib", "bench") from None


def empty_figure(width: float, height: float) -> Any:  # noqa: ANN401 - matplotlib has no types
    """Return a figure of matplotlib, in inches, that needs no screen."""
    need_plotting()
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def draw_lines(
    lines: Mapping[str, Sequence[tuple[float | None, float]]],
    path: Path,
    *,
    x_label: str,
    y_label: str,
    log_x: bool = False,
    joined: bool = True,
) -> None:
    """Draw a line or points for each name, with a legend beside them.

    Args:
        lines: Name to points (x, y); a point without x is a horizontal line at y.
        path: Picture to write.
        x_label: Label of the x axis.
        y_label: Label of the y axis.
        log_x: Whether x is logarithmic.
        joined: Whether points are joined.
    """
    figure = empty_figure(7.5, 4.2)
    axes = figure.subplots()
    for i, (name, points) in enumerate(lines.items()):
        # Colours come again after ten lines, with other markers.
        marker = _MARKERS[(i + i // 10) % len(_MARKERS)]
        there = [(x, y) for x, y in points if x is not None]
        if there:
            axes.plot(*zip(*there, strict=True), marker=marker, linestyle="-" if joined else "", label=name)
        for _, y in (point for point in points if point[0] is None):
            axes.axhline(y, color=f"C{i % 10}", linestyle="--", linewidth=0.9, label=None if there else name)
    if log_x:
        axes.set_xscale("log")
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right center", fontsize=8)
    figure.savefig(path, dpi=120)
