"""`python -m benchmarks.scale`: time and memory with full queues, many classes and data larger than memory."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from benchmarks.scale.undo import undo_table
from ddsdk.cli.console import err, out, table
from ddsdk.foundation import readable_json, require_count, write_atomic


@dataclass(frozen=True, kw_only=True)
class ScaleBenchmark:
    """Measure time and memory at scale on this machine.

    Attributes:
        table: Table to measure. undo: step of IDM with a full queue of networks.
        width: Width of the ConvNets, in channels per layer.
        queue: Number of networks in the queue for the table undo.
        repeats: Number of timed repetitions, of which the median is reported.
        out: JSON file to write. None: no file.
    """

    table: Literal["undo"] = "undo"
    width: int = 128
    queue: int = 100
    repeats: int = 5
    out: Path | None = None

    def run(self) -> int:
        """Return exit code 0 after measuring and printing the table."""
        for name in ("width", "queue", "repeats"):
            require_count(name, getattr(self, name))
        measured = undo_table(width=self.width, queue=self.queue, repeats=self.repeats)
        for title, columns, rows in measured.tables():
            table(title, columns, rows)
        if self.out is not None:
            write_atomic(self.out, readable_json(measured.to_dict()))
            out(str(self.out))
        return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Return the exit code of the benchmark that the command line names."""
    try:
        return tyro.cli(ScaleBenchmark, prog="python -m benchmarks.scale", args=argv).run()
    except (ValueError, OSError, ImportError) as error:
        err(f"error: {error}")
        return 2


if __name__ == "__main__":
    sys.exit(main())
