"""What pages of benchmarks are made of: a table in markdown, and an empty figure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ddsdk.errors import MissingExtraError

__all__ = ["empty_figure", "markdown_table"]


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table, a line for each row, with a line feed at its end.

    Args:
        heads: Of the columns.
        rows: Cells, as many as heads.
    """
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


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
