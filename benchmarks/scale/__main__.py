"""`python -m benchmarks.scale`: time and memory with full queues, many classes and data larger than memory."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from benchmarks.machine.machine import MachineTable
from benchmarks.scale.classes import classes_table
from benchmarks.scale.disk import disk_table
from benchmarks.scale.memory import memory_table
from benchmarks.scale.undo import undo_table
from ddsdk.cli.console import err, out, table
from ddsdk.foundation import readable_json, require_count, write_atomic

_COUNTS = (
    *("width", "queue", "classes", "classes_per_step", "ipc", "real_batch"),
    *("micro_batch", "workers", "in_memory", "repeats"),
)


@dataclass(frozen=True, kw_only=True)
class ScaleBenchmark:
    """Measure time and memory at scale on this machine.

    Attributes:
        table: Table to measure. undo: step of IDM with a full queue of networks. classes: step of DM on many classes.
            disk: memory and time of methods on a folder of pictures that are decoded to disk. memory: memory of reading
            a folder of pictures, and of judging on test data.
        width: Width of the ConvNets, in channels per layer.
        queue: Number of networks in the queue for the table undo.
        classes: Number of classes for the table classes.
        classes_per_step: Number of classes in one step for the table classes.
        ipc: Images per class of the synthetic sets.
        real_batch: Real images of each class in one step.
        micro_batch: Images in one forward pass of a network for the table disk.
        folder: Folder of pictures for the tables disk and memory, such as `python -m benchmarks.scale.files` writes.
        workers: Number of processes that decode pictures for the table disk.
        in_memory: Images of each class in memory for the comparison of step times in the table disk.
        repeats: Number of timed repetitions, of which the median is reported.
        out: JSON file to write. None: no file.
    """

    table: Literal["undo", "classes", "disk", "memory"] = "undo"
    width: int = 128
    queue: int = 100
    classes: int = 1000
    classes_per_step: int = 50
    ipc: int = 1
    real_batch: int = 16
    micro_batch: int = 4
    folder: Path = Path("pictures")
    workers: int = 2
    in_memory: int = 40
    repeats: int = 5
    out: Path | None = None

    def run(self) -> int:
        """Return exit code 0 after measuring and printing the table."""
        for name in (
            "width",
            "queue",
            "classes",
            "classes_per_step",
            "ipc",
            "real_batch",
            "workers",
            "in_memory",
            "repeats",
        ):
            require_count(name, getattr(self, name))
        measured = self._measured()
        for title, columns, rows in measured.tables():
            table(title, columns, rows)
        if self.out is not None:
            write_atomic(self.out, readable_json(measured.to_dict()))
            out(str(self.out))
        return 0

    def _measured(self) -> MachineTable:
        if self.table == "undo":
            return undo_table(width=self.width, queue=self.queue, repeats=self.repeats)
        if self.table == "memory":
            return memory_table(folder=self.folder)
        if self.table == "disk":
            return disk_table(
                folder=self.folder,
                width=self.width,
                ipc=self.ipc,
                real_batch=self.real_batch,
                micro_batch=self.micro_batch,
                repeats=self.repeats,
                workers=self.workers,
                in_memory=self.in_memory,
            )
        return classes_table(
            width=self.width,
            classes=self.classes,
            per_step=self.classes_per_step,
            ipc=self.ipc,
            real_batch=self.real_batch,
            repeats=self.repeats,
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Return the exit code of the benchmark that the command line names."""
    try:
        return tyro.cli(ScaleBenchmark, prog="python -m benchmarks.scale", args=argv).run()
    except (ValueError, OSError, ImportError) as error:
        err(f"error: {error}")
        return 2


if __name__ == "__main__":
    sys.exit(main())
