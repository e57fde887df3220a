"""Terminal output with rich. Callers escape text that comes from files."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

_LINE_SECONDS = 60.0
_OUT = Console(highlight=False, soft_wrap=True)
_ERR = Console(stderr=True, highlight=False, soft_wrap=True)


def out(text: str = "") -> None:
    """Print a line to standard output without interpreting markup."""
    _OUT.print(Text(text))


def err(text: str) -> None:
    """Print a line to standard error without interpreting markup."""
    _ERR.print(Text(text))


def readable_seconds(seconds: float) -> str:
    """Return a duration in days, hours, minutes or seconds, at least 2 of the larger units."""
    for unit, size in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 1):.0f} s"


def open_line(folder: Path) -> str:
    """Return a shell command that loads the distilled set in `folder` and prints its description."""
    program = f"import ddsdk; print(ddsdk.Distilled.load({str(folder)!r}))"
    return f"python -c {shlex.quote(program)}"


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table of plain text to standard output."""
    grid = Table(title=Text(title, style="table.title"), title_justify="left")
    for column in columns:
        # Rich would shorten a long cell to "abc…"; a shortened content id identifies nothing.
        grid.add_column(Text(column), overflow="fold")
    for row in rows:
        grid.add_row(*(Text(cell) for cell in row))
    _OUT.print(grid)


@contextmanager
def progress(description: str, total: int) -> Iterator[Callable[[int, str], None]]:
    """Show a progress bar with a count, the remaining time and a note on standard error.

    Outside a terminal, a line is printed every minute instead.

    Yields:
        Function that updates the bar with the number of finished parts and a note.
    """
    label, note = TextColumn("{task.description}"), TextColumn("{task.fields[note]}")
    bar = Progress(label, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), note, console=_ERR)
    last_print = time.monotonic()

    def update(done: int, note: str) -> None:
        nonlocal last_print
        bar.update(task, completed=done, note=note)
        if not _ERR.is_terminal and time.monotonic() - last_print >= _LINE_SECONDS:
            last_print = time.monotonic()
            err(f"{description} {done}/{total} {note}")

    with bar:
        task = bar.add_task(description, total=total, note="")
        yield update
