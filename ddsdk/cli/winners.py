"""`ddsdk winners`: which method is the best for a time and a kind of labels, as measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import tyro

from ddsdk.cli.console import out, table
from ddsdk.foundation import escape_terminal, require
from ddsdk.planning import Board, LabelKind, reached, read_boards, standings


@dataclass(frozen=True, kw_only=True)
class Winners:
    """List what `ddsdk distill` chooses from: accuracy of each method after so many CPU seconds, the best one first.

    Attributes:
        curves: Files curves.json of `ddsdk curve`; what ships with the package if not given. The data of the first one
            stands for all that was not measured.
        reach: An accuracy in percent: list the CPU seconds after which each method had a set that is as good.
        out: File to write them to, for `ddsdk distill --measured`.
    """

    curves: tyro.conf.Positional[tuple[Path, ...]] = ()
    reach: float | None = None
    out: Path | None = None

    def run(self) -> int:
        """Print a table for each data set, number of images per class and kind of labels."""
        if self.reach is not None:
            require(0 < self.reach < 100, "reach", "be a percentage between 0 and 100", self.reach)
        boards = _measured(self.curves) if self.curves else read_boards()
        for board in boards:
            for kind in get_args(LabelKind):
                if self.reach is None:
                    _show(board, kind)
                else:
                    _show_times(board, kind, self.reach)
        if self.out is not None:
            from ddsdk.foundation import readable_json, write_atomic

            write_atomic(self.out, readable_json({"boards": _plain(boards)}))
            out(str(self.out))
        return 0


def _measured(paths: Sequence[Path]) -> tuple[Board, ...]:
    from ddsdk.experiments import boards_of, read_curves
    from ddsdk.planning import METHODS

    return boards_of([curve for path in paths for curve in read_curves(path)], METHODS)


def _plain(boards: Sequence[Board]) -> object:
    import msgspec

    return msgspec.to_builtins(boards)


def _show(board: Board, kind: LabelKind) -> None:
    columns = [{id(entry): accuracy for accuracy, _, entry in standings(board, kind, mark)} for mark in board.marks]
    # By the last mark; what had nothing there by the one before, and so on.
    ranked = {id(entry): entry for mark in reversed(board.marks) for _, _, entry in standings(board, kind, mark)}
    rows = [
        (
            escape_terminal(entry.recipe),
            *(f"{100 * column[key]:.1f}" if key in column else "–" for column in columns),
            escape_terminal(", ".join(f"{k}={v}" for k, v in entry.settings.items()), 200),
        )
        for key, entry in ranked.items()
    ]
    title = escape_terminal(f"{board.data}, ipc {board.ipc}, {kind} labels, % on held-out training images")
    table(title, ("method", *(f"{mark:g} s" for mark in board.marks), "settings"), rows)


def _show_times(board: Board, kind: LabelKind, percent: float) -> None:
    rows = [(escape_terminal(entry.recipe), f"{seconds:.0f}") for seconds, entry in reached(board, kind, percent / 100)]
    title = f"{board.data}, ipc {board.ipc}, {kind} labels: {percent:g} % of held-out training images"
    table(escape_terminal(title), ("method", "CPU seconds"), rows)
