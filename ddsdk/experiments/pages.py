"""What pages of benchmarks are made of: answers by method, shares in %, a table in markdown, and an empty figure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ddsdk.foundation import MissingExtraError

__all__ = ["by_method", "empty_figure", "markdown_table", "percent"]


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table, a line for each row, with a line feed at its end.

    Args:
        heads: Of the columns.
        rows: Cells, as many as heads.
    """
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def percent(values: Sequence[float]) -> str:
    """Return the mean of shares in %, with the deviation between them where there are several."""
    mean = f"{100 * statistics.fmean(values):.1f}"
    return f"{mean} ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else mean


def by_method(cells: Iterable[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Return answers of a benchmark under the method of their cell, in the order in which methods come up."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for cell in cells:
        found.setdefault(cell["cell"]["method"], []).append(cell)
    return found


def empty_figure(width: float, height: float) -> Any:  # noqa: ANN401 - matplotlib has no types
    """Return a figure of matplotlib, in inches, that needs no screen.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise MissingExtraError("a picture", "matplotlib", "bench") from None
    return Figure(figsize=(width, height), layout="constrained")
