"""`python -m benchmarks.machine`: speed and memory of the recipes on this machine."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro

from benchmarks.machine.machine import MachineTable
from benchmarks.machine.profile import profile_table
from benchmarks.machine.rivals import rivals_table
from benchmarks.machine.speed import speed_table
from benchmarks.machine.stacked import stacked_table
from benchmarks.machine.unroll import unroll_table
from ddsdk.cli.console import err, out, table
from ddsdk.cli.options import check_device, names, whole_numbers
from ddsdk.foundation import readable_json, require, write_atomic


@dataclass(frozen=True, kw_only=True)
class MachineBenchmark:
    """Measure speed and memory of the recipes on this machine, relative to its matrix-product rate.

    Attributes:
        table: Table to measure. speed: time and memory of the recipes. unroll: memory of one step of trajectory
            matching. profile: fractions of the time of a step. stacked: training of several stacked networks. rivals:
            image steps beside plain ones, on a CPU.
        recipes: Names of the recipes, separated by commas. Default: all iterative recipes; for rivals its six.
        widths: Widths of the ConvNet, separated by commas. Default: 32,64,128; 32 for unroll and profile, and 128 for
            rivals.
        student_steps: Numbers of training steps of the student for the table unroll, separated by commas.
        real_batch: Real images of each class per step.
        ipc: Images per class of the synthetic set.
        reach: Accuracy in percent for the column of CPU seconds to an accuracy in the table speed.
        repeats: Number of timed repetitions, of which the median is reported.
        out: JSON file to write. None: no file.
        device: Torch device, such as cpu or cuda.
        threads: Number of CPU threads. None: torch's default.
    """

    table: Literal["speed", "unroll", "profile", "stacked", "rivals"] = "speed"
    recipes: str = ""
    widths: str = ""
    student_steps: str = "5,20,80"
    real_batch: int = 256
    ipc: int = 10
    repeats: int = 5
    reach: float = 70.0
    out: Path | None = None
    device: str = "cpu"
    threads: int | None = None

    def run(self) -> int:
        """Return exit code 0 after measuring and printing the table."""
        for name in ("real_batch", "ipc", "repeats"):
            require(getattr(self, name) >= 1, name, "be at least 1", getattr(self, name))
        check_device(self.device)
        if self.threads is not None:
            require(self.threads >= 1, "threads", "be at least 1", self.threads)
            torch.set_num_threads(self.threads)
        measurements: dict[str, Callable[[], MachineTable]] = {
            "speed": self._speed,
            "unroll": self._unroll,
            "profile": self._profile,
            "stacked": self._stacked,
            "rivals": self._rivals,
        }
        measured = measurements[self.table]()
        for title, columns, rows in measured.tables():
            table(title, columns, rows)
        if self.out is not None:
            write_atomic(self.out, readable_json(measured.to_dict()))
            out(str(self.out))
        return 0

    def _speed(self) -> MachineTable:
        return speed_table(
            recipes=names(self.recipes),
            widths=whole_numbers("widths", self.widths or "32,64,128"),
            real_batch=self.real_batch,
            ipc=self.ipc,
            repeats=self.repeats,
            device=self.device,
            reach=self.reach,
        )

    def _unroll(self) -> MachineTable:
        return unroll_table(
            student_steps=whole_numbers("student_steps", self.student_steps),
            widths=whole_numbers("widths", self.widths or "32"),
            ipc=self.ipc,
            repeats=self.repeats,
            device=self.device,
        )

    def _profile(self) -> MachineTable:
        widths = whole_numbers("widths", self.widths or "32")
        require(len(widths) == 1, "widths", "be one width for the table profile", self.widths)
        return profile_table(
            recipes=names(self.recipes), width=widths[0], ipc=self.ipc, repeats=self.repeats, device=self.device
        )

    def _stacked(self) -> MachineTable:
        return stacked_table(
            widths=whole_numbers("widths", self.widths or "32,64,128"),
            ipc=self.ipc,
            repeats=self.repeats,
            device=self.device,
        )

    def _rivals(self) -> MachineTable:
        require(self.device == "cpu", "device", "be cpu for the table rivals", self.device)
        return rivals_table(
            recipes=names(self.recipes),
            widths=whole_numbers("widths", self.widths or "128"),
            real_batch=self.real_batch,
            ipc=self.ipc,
            repeats=self.repeats,
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Return the exit code of the benchmark that the command line names."""
    try:
        return tyro.cli(MachineBenchmark, prog="python -m benchmarks.machine", args=argv).run()
    except (ValueError, OSError, ImportError) as error:
        err(f"error: {error}")
        return 2


if __name__ == "__main__":
    sys.exit(main())
