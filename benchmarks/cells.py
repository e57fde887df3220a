"""`python -m benchmarks.cells`: the distilled sets of the result pages, made, evaluated and reported one by one."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import tyro

from ddsdk.cli import main as ddsdk_command
from ddsdk.cli.console import out
from ddsdk.foundation import require

_GREY, _COLOUR = "--data fashion-mnist", "--data cifar10"
_SHORT = "--start k-means --anneal"
_FREPO = f"--recipe frepo --loss cross-entropy --width 32 --pool 8 --student-steps 60 --real-batch 400 {_SHORT}"
_FREPO += " --image-lr 5e-3 --label-lr 5e-3"
_NCFM = f"--recipe ncfm --width 64 --frequencies 1024 --image-lr 0.01 --pool-epochs 6 --pool-images 2000 {_SHORT}"
_NCFM += " --average 0.99"
_IDC = f"--recipe idc --steps-per-student 5 {_SHORT} --average 0.995"
_RFAD = f"--recipe rfad --width 32 --networks 4 --real-batch 500 {_SHORT}"
_MTT = "--recipe mtt --width 64 --experts 8 --expert-epochs 6 --expert-images 3000 --student-lr 0.02 --rate-lr 1e-5"
_MTT += f" --max-start 3 --image-lr 1000 {_SHORT}"
_GRADIENTS = "--real-batch 64 --width 32"
_LONG_TRAINING = "--student-epochs 5 --student-lr 0.1 --image-lr 1 --start real"


class Cell(NamedTuple):
    """Options of `ddsdk distill` and of `ddsdk evaluate` for one set."""

    distill: str
    evaluate: str = "--protocol both"


CELLS: dict[str, Cell] = {
    "dsa-1": Cell(f"{_GREY} --recipe dsa --ipc 1 --students 1000 --real-batch 128", "--protocol stored"),
    "cafe-1": Cell(
        f"{_GREY} --recipe cafe --ipc 1 --steps 300 --width 64 --real-batch 64 --image-lr 0.5 --early-weight 0"
        f" --discrimination 0.1 --student-lr 0.02 --steps-per-student 20 {_SHORT} --average 0.98",
        "--protocol stored",
    ),
    "dm-10": Cell(f"{_GREY} --recipe dm --ipc 10 --steps 4300 --real-batch 64 --width 64", "--protocol stored"),
    "dm-50": Cell(f"{_GREY} --recipe dm --ipc 50 --steps 1500 --real-batch 64 --width 64", "--protocol stored"),
    "dsa-10": Cell(f"{_GREY} --recipe dsa --ipc 10 --students 180 {_GRADIENTS} {_LONG_TRAINING}", "--protocol stored"),
    "dc-10": Cell(f"{_GREY} --recipe dc --ipc 10 --students 180 {_GRADIENTS} {_LONG_TRAINING}", "--protocol stored"),
    "m3d-1": Cell(f"{_GREY} --recipe m3d --ipc 1 --steps 400 --width 64 --anneal --average 0.98", "--protocol stored"),
    "idm-1": Cell(
        f"{_GREY} --recipe idm --ipc 1 --steps 1000 --width 64 --real-batch 128 --queue 10 --student-batch 128"
        " --student-steps 2 --anneal",
        "--protocol stored",
    ),
    "ncfm-1": Cell(f"{_GREY} {_NCFM} --ipc 1 --steps 1500 --real-batch 128 --pool 5", "--protocol stored"),
    "ncfm-10": Cell(f"{_GREY} {_NCFM} --ipc 10 --steps 2000 --real-batch 64 --pool 5", "--protocol stored"),
    "idc-1": Cell(f"{_GREY} {_IDC} --ipc 1 --steps 4500 --image-lr 4e-4"),
    "idc-10": Cell(f"{_GREY} {_IDC} --ipc 10 --steps 4500 --image-lr 1e-3 --width 64"),
    "mtt-1": Cell(f"{_GREY} {_MTT} --ipc 1 --steps 600 --student-steps 50 --average 0.97", "--protocol stored"),
    "mtt-10": Cell(f"{_GREY} {_MTT} --ipc 10 --steps 400 --student-steps 30", "--protocol stored"),
    "frepo-1": Cell(f"{_GREY} {_FREPO} --ipc 1 --steps 15000"),
    "frepo-10": Cell(f"{_GREY} {_FREPO} --ipc 10 --steps 5000"),
    "rfad-1": Cell(f"{_GREY} {_RFAD} --ipc 1 --steps 4000", "--protocol stored --width 128"),
    "rfad-10": Cell(f"{_GREY} {_RFAD} --ipc 10 --steps 3000", "--protocol stored --width 128"),
    "rcig-1": Cell(
        f"{_GREY} --recipe rcig --ipc 1 --steps 800 --width 16 --image-lr 0.02 --label-lr 0.02 {_SHORT}",
        "--protocol stored",
    ),
    "dd-10": Cell(f"{_GREY} --recipe dd --ipc 10 --steps 15000 --real-batch 256"),
    "sldd-10": Cell(f"{_GREY} --recipe sldd --ipc 10 --steps 15000 --real-batch 256"),
    "cifar-dm-1": Cell(f"{_COLOUR} --recipe dm --ipc 1 --steps 800 --real-batch 64 --width 64", "--protocol stored"),
    "cifar-dc-1": Cell(f"{_COLOUR} --recipe dc --ipc 1 --students 400 --image-lr 1 {_GRADIENTS}", "--protocol stored"),
    "cifar-dsa-1": Cell(
        f"{_COLOUR} --recipe dsa --ipc 1 --students 400 --image-lr 0.2 {_GRADIENTS}", "--protocol stored"
    ),
    "cifar-frepo-1": Cell(f"{_COLOUR} {_FREPO} --ipc 1 --steps 8000"),
    "cifar-ncfm-1": Cell(f"{_COLOUR} {_NCFM} --ipc 1 --steps 1000 --real-batch 128 --pool 5", "--protocol stored"),
    "cifar-idc-1": Cell(f"{_COLOUR} {_IDC} --ipc 1 --steps 4000 --width 64 --image-lr 5e-3"),
    "cifar-dm-10": Cell(f"{_COLOUR} --recipe dm --ipc 10 --steps 2500 --real-batch 64 --width 64", "--protocol stored"),
}
"""Options by cell. The name is that of the folder: method and images per class, after the data set for CIFAR-10."""

CELLS |= {
    f"short-{data}-{recipe}": Cell(
        f"--data {data} --recipe {recipe} --ipc 1 --budget 2m", "--protocol published --width 64 --epochs 300"
    )
    for data in ("digits", "fashion-mnist", "cifar10")
    for recipe in ("auto", "dm", "dc", "dsa", "idc", "ncfm", "mtt", "rat-bptt")
}


@dataclass(frozen=True, kw_only=True)
class CellsBenchmark:
    """Make, evaluate and report distilled sets of the result pages.

    A second call continues with what is missing: a run from its checkpoint, an evaluation from its stored networks.

    Attributes:
        out: Folder of the sets and of their scores.
        cells: Names of the cells, separated by commas. Default: all.
        root: Folder of the data sets. None: ~/.cache/ddsdk.
        threads: Number of CPU threads. Results are reproducible only with an equal number.
        device: Torch device, such as cpu or cuda.
        repeats: Number of evaluation networks of each set.
        stop: Stage after which the command ends. The report is also written to ``table.md`` in the folder.
    """

    out: Path
    cells: str = ""
    root: Path | None = None
    threads: int = 1
    device: str = "cpu"
    repeats: int = 3
    stop: Literal["distill", "evaluate", "report"] = "report"

    def run(self) -> int:
        """Return the exit code of the first command that fails, or 0."""
        names = self.cells.split(",") if self.cells else list(CELLS)
        unknown = [name for name in names if name not in CELLS]
        require(not unknown, "cells", f"be names among {', '.join(CELLS)}", ", ".join(unknown))
        machine = ["--threads", str(self.threads), "--device", self.device]
        machine += [] if self.root is None else ["--root", str(self.root)]
        scores = str(self.out / "scores")
        judge = ["--repeats", str(self.repeats), "--baselines", "", "--results", scores]
        for name in names:
            cell, folder = CELLS[name], str(self.out / name)
            options = shlex.split(cell.distill)
            code = ddsdk_command(["distill", *options, *machine, "--out", folder, "--resume"])
            if not code and self.stop != "distill":
                words = shlex.split(cell.evaluate)
                code = ddsdk_command(["evaluate", folder, *options[:2], *words, *machine, *judge])
            if code:
                return code
        if self.stop != "report":
            return 0
        page, sets = self.out / "table.md", [str(self.out / name) for name in names]
        code = ddsdk_command(["report", *sets, "--results", scores, "--markdown", str(page)])
        if not code:
            out(page.read_text())
        return code


if __name__ == "__main__":
    sys.exit(tyro.cli(CellsBenchmark, prog="python -m benchmarks.cells").run())
