"""Markdown tables and plots of measured values."""

from __future__ import annotations

import io
import os
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ddsdk.foundation import MissingExtraError, write_atomic

_MARKERS = "os^Dv*PXhp"


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a markdown table that ends with a line feed.

    Args:
        heads: Heads of the columns, with markdown characters already escaped.
        rows: Rows with as many cells as there are columns.

    Examples:
        >>> print(markdown_table(["method", "accuracy"], [["dm", "26.0"]]), end="")
        | method | accuracy |
        | --- | --- |
        | dm | 26.0 |
    """
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def mean_text(values: Sequence[float], *, scale: float = 1.0, digits: int = 1) -> str:
    """Return the mean of numbers as text, with the sample standard deviation of two or more.

    Args:
        values: Numbers, such as accuracies in 0..1. An empty sequence gives a dash.
        scale: Factor of the numbers, such as 100 for percent.
        digits: Number of digits behind the decimal point.

    Examples:
        >>> mean_text([0.25, 0.75], scale=100)
        '50.0 ± 35.4'
    """
    if not values:
        return "–"
    mean = f"{scale * statistics.fmean(values):.{digits}f}"
    return f"{mean} ± {scale * statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean


def need_plotting() -> None:
    """Check that matplotlib is installed, before a long computation instead of after it.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise MissingExtraError("a picture", "matplotlib", "bench") from None


def empty_figure(width: float, height: float) -> Any:  # noqa: ANN401 - matplotlib has no types
    """Return an empty matplotlib figure of a size in inches, independent of a display."""
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
    """Write a plot with a line or a set of points for each name and a legend.

    Args:
        lines: Points (x, y) of each name. A point with x = None is drawn as a horizontal line at y.
        path: Image file to write; its suffix decides the format.
        x_label: Label of the x axis.
        y_label: Label of the y axis.
        log_x: Whether the x axis is logarithmic.
        joined: Whether the points of a name are connected by a line.
    """
    figure = empty_figure(7.5, 4.2)
    axes = figure.subplots()
    for i, (name, points) in enumerate(lines.items()):
        # Matplotlib repeats its colours after ten lines; the marker then differs.
        marker = _MARKERS[(i + i // 10) % len(_MARKERS)]
        positioned = [(x, y) for x, y in points if x is not None]
        if positioned:
            axes.plot(*zip(*positioned, strict=True), marker=marker, linestyle="-" if joined else "", label=name)
        for _, y in (point for point in points if point[0] is None):
            axes.axhline(y, color=f"C{i % 10}", linestyle="--", linewidth=0.9, label=None if positioned else name)
    if log_x:
        axes.set_xscale("log")
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right center", fontsize=8)
    write_figure(figure, path)


def write_figure(figure: Any, path: str | os.PathLike[str]) -> None:  # noqa: ANN401
    """Write a matplotlib figure atomically, in the format of the ending of `path`, such as .png or .svg."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=Path(path).suffix[1:] or "png", dpi=120)
    write_atomic(path, buffer.getvalue())
