"""Choice of a method for a time and a kind of labels: the winner of measured curves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ddsdk.foundation import clean, require, require_count, require_rate
from ddsdk.planning.measured import Board, Entry, Figure

LabelKind = Literal["hard", "soft"]
_LINE = 2000
_LATE = 1.5
"""Multiple of a mark after which a set does not count there."""


@dataclass(frozen=True)
class Choice:
    """The winner, with the others that were measured beside it and with the wish that it answers.

    Attributes:
        board: Board of the measurement.
        entry: Method with its settings.
        figure: Figure of the method.
        kind: Kind of the labels.
        accuracy: Accuracy of the figure for this kind of labels.
        among: Number of methods that had a figure there.
        data: Name of the wanted data; None if it was not named.
        ipc: Wanted images per class.
        budget: Wanted seconds.
    """

    board: Board
    entry: Entry
    figure: Figure
    kind: LabelKind
    accuracy: float
    among: int
    data: str | None
    ipc: int
    budget: float

    def told(self) -> str:
        """Return the choice in one line, with its reason and with all that differs from the wish."""
        board, mark = self.board, f"{self.figure.mark:g}"
        images = "1 image" if board.ipc == 1 else f"{board.ipc} images"
        but = [] if self.data in (None, board.data) else [f"on {board.data} and not on {self.data}"]
        but += [] if self.ipc == board.ipc else [f"at ipc {board.ipc} and not {self.ipc}"]
        but += [] if self.figure.mark <= self.budget else [f"after {mark} s and not {self.budget:g}"]
        values = {**self.entry.settings, **board.network_options}
        settings = ", ".join(f"{name}={value!r}" for name, value in values.items())
        return clean(
            f"taking {self.entry.recipe}: {100 * self.accuracy:.1f} % on held-out images of {board.data} after {mark} "
            f"CPU seconds with {images} per class, the best of {self.among} methods for {self.kind} labels"
            + (f" (measured {', '.join(but)})" if but else "")
            + f"; with {settings or 'its defaults'}, where you set nothing else; the whole list: ddsdk winners",
            _LINE,
        )


def _accuracy(figure: Figure, kind: LabelKind) -> float:
    return figure.published if kind == "hard" or figure.own is None else figure.own


def reached(board: Board, kind: LabelKind, accuracy: float) -> list[tuple[float, Entry]]:
    """Return the CPU seconds of the mark by which each method had a set of an accuracy, the fastest one first.

    Methods that did not get there are left out, and so are sets for kernel machines.
    """
    require(0 < accuracy < 1, "accuracy", "lie strictly between 0 and 1", accuracy)
    found = []
    for entry in board.entries:
        first = [f.seconds for f in entry.figures if _accuracy(f, kind) >= accuracy]
        found += [(min(first), entry)] if first and not entry.kernel else []
    return sorted(found, key=lambda row: (row[0], row[1].recipe))


def standings(board: Board, kind: LabelKind, mark: float) -> list[tuple[float, Figure, Entry]]:
    """Return accuracy, figure and method of those that had a set at a mark, the best one first.

    Hard labels are judged by the published protocol with a class for each image; soft ones by each method's own
    protocol, with whatever labels it stores. Sets for kernel machines do not train networks and are left out, and so
    are those that came long after the mark. Of equals the faster one is first.
    """
    found = [
        (_accuracy(figure, kind), figure, entry)
        for entry in board.entries
        for figure in entry.figures
        if figure.mark == mark and not entry.kernel and figure.seconds <= _LATE * mark
    ]
    return sorted(found, key=lambda row: (-row[0], row[1].seconds, row[2].recipe))


def choose(boards: Sequence[Board], *, kind: LabelKind, budget: float, ipc: int, data: str | None = None) -> Choice:
    """Return the winner at the largest measured mark within the budget, or at the smallest if all are beyond it.

    Args:
        boards: Measured boards. The data of the first one stands for data that was not measured.
        kind: Labels that networks will train on, see `standings`.
        budget: Seconds of distillation.
        ipc: Images per class; the nearest measured number, by ratio, counts.
        data: Name of the data.

    Raises:
        ValueError: If nothing was measured there.
    """
    require_count("ipc", ipc)
    require_rate("budget", budget)
    require(bool(boards), "measured", "hold curves; name a recipe", "none")
    known = {board.data for board in boards}
    taken = data if data in known else boards[0].data
    same = [board for board in boards if board.data == taken]
    board = min(same, key=lambda board: (abs(math.log(board.ipc / ipc)), board.ipc))
    mark = max((mark for mark in board.marks if mark <= budget), default=board.marks[0])
    rows = standings(board, kind, mark)
    rule = "hold a method that had a set by then; name a recipe"
    require(bool(rows), "measured", rule, f"none at {mark:g} s on {board.data}")
    accuracy, figure, entry = rows[0]
    return Choice(board, entry, figure, kind, accuracy, len(rows), data, ipc, budget)
