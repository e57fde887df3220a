"""Terminal output, through rich; text from files is escaped before it gets here."""

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
    """Print a line as it is; nothing in it is markup."""
    _OUT.print(Text(text))


def err(text: str) -> None:
    """Print a line to standard error."""
    _ERR.print(Text(text))


def open_line(folder: Path) -> str:
    """Return a shell command that opens the set in `folder` and describes it."""
    program = f"import ddsdk; print(ddsdk.Distilled.load({str(folder)!r}))"
    return f"python -c {shlex.quote(program)}"


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table of plain text."""
    grid = Table(title=Text(title, style="table.title"), title_justify="left")
    for column in columns:
        # Folding keeps every character: a content id with dots in it is of no use.
        grid.add_column(Text(column), overflow="fold")
    for row in rows:
        grid.add_row(*(Text(cell) for cell in row))
    _OUT.print(grid)


@contextmanager
def progress(description: str, total: int) -> Iterator[Callable[[int, str], None]]:
    """Show a live bar with a count, the time left and a note; where there is no terminal, a line every minute.

    Yields:
        Function that takes the number of finished parts, and the note.
    """
    about, note = TextColumn("{task.description}"), TextColumn("{task.fields[note]}")
    bar = Progress(about, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), note, console=_ERR)
    last = time.monotonic()

    def update(done: int, note: str) -> None:
        nonlocal last
        bar.update(task, completed=done, note=note)
        if not _ERR.is_terminal and time.monotonic() - last >= _LINE_SECONDS:
            last = time.monotonic()
            err(f"{description} {done}/{total} {note}")

    with bar:
        task = bar.add_task(description, total=total, note="")
        yield update
