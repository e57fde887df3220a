"""`python -m ddsdk_integrations.nas`: how well proxies rank architectures, and what they cost."""

from __future__ import annotations

import hashlib
import itertools
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, final

import ddsdk as dd
from ddsdk.experiments import CellBenchmark, InProcess, Processes, Question, known_words, numbers, run_command
from ddsdk.foundation import require, require_count
from ddsdk_integrations.nas.benchmark import METHODS, STUDENTS, TRUTH, Cell, Place, described, measure
from ddsdk_integrations.nas.narrow import Setting
from ddsdk_integrations.nas.table import markdown, plot


@final
@dataclass(frozen=True, kw_only=True)
class Benchmark(CellBenchmark):
    """Rank architectures by proxies of all kinds, and judge them by the truth: what the networks reach in the end.

    The truth of the usual setting on FashionMNIST comes with the package; another setting measures its own first. What
    was measured is kept in OUT, unit by unit, so a run that was stopped goes on where it was.

    Attributes:
        space: Narrow ConvNets, or cells of NAS-Bench-201 at their published size, which takes a GPU.
        accuracies: Table of the accuracies of cells that is the truth: CSV with a column "arch" and one for each data.
        column: Of the table.
        fresh_truth: Measure the truth also where it comes with the package.
        device: Where candidates train.
        candidates: How many.
        ipc: Images per class of sets, separated by commas; slow recipes and herding take part up to 10.
        students: What recipes see: one ConvNet, or many architectures; separated by commas.
        steps: Of the training on sets, separated by commas.
        early: Steps of early stopping, separated by commas.
        repeats: Trainings of each candidate for a proxy.
        processes: That share the work; 1 works in this one.
        side: Pixels of a side, to which images are averaged down or repeated.
        train: Training images of each class.
        validation: Images of each class, from the training images too, by which proxies score.
        epochs: Of the truth.
    """

    space: Literal["convnets", "cells"] = "convnets"
    accuracies: Path | None = None
    column: str = "cifar10"
    fresh_truth: bool = False
    device: str = "cpu"
    candidates: int = Setting.candidates
    ipc: str = "10,50"
    students: str = "one,many"
    steps: str = "20"
    early: str = "5,20,80"
    repeats: int = 1
    processes: int = 1
    side: int = Setting.side
    train: int = Setting.train
    validation: int = Setting.validation
    epochs: int = Setting.epochs

    def questions(self, train: dd.RealData) -> list[Question]:  # noqa: ARG002
        """Return the cells: the truth, and one for each proxy."""
        require_count("processes", self.processes)
        require_count("repeats", self.repeats)
        require(
            self.accuracies is None or self.space == "cells", "accuracies", "be None but for cells", self.accuracies
        )
        setting = Setting(
            space=self.space,
            candidates=self.candidates,
            side=self.side,
            train=self.train,
            validation=self.validation,
            epochs=self.epochs,
        )
        place = Place(
            folder=self.out,
            executor=InProcess() if self.processes == 1 else Processes(self.processes),
            device=self.device,
            accuracies=self.accuracies,
            column=self.column,
            fresh_truth=self.fresh_truth,
        )
        cells = [Cell(method=TRUTH, repeats=setting.truth_seeds)]
        for name in known_words("methods", self.methods, METHODS):
            cells += self._cells(name)
        return [self._question(cell, setting, place) for cell in cells]

    def _cells(self, name: str) -> Iterator[Cell]:
        method = METHODS[name]
        if method.untrained is not None:
            yield Cell(method=name, repeats=self.repeats)
        elif method.make is None:
            for steps in numbers("early", self.early, 1):
                yield Cell(method=name, steps=steps, repeats=self.repeats)
        else:
            seen = ["", *known_words("students", self.students, STUDENTS)]
            lengths, seeds = numbers("steps", self.steps, 1), numbers("seeds", self.seeds, 0)
            sizes = numbers("ipc", self.ipc, 1)
            for ipc, students, steps, seed in itertools.product(sizes, seen, lengths, seeds):
                if ipc <= method.largest.get(students, 0):
                    yield Cell(method=name, ipc=ipc, students=students, steps=steps, repeats=self.repeats, seed=seed)

    def _question(self, cell: Cell, setting: Setting, place: Place) -> Question:
        table = place.accuracies if cell.method == TRUTH else None
        known = None if table is None else [hashlib.sha256(table.read_bytes()).hexdigest(), place.column]
        return Question(
            cell=cell,
            setting=setting,
            about={"method": described(cell), "accuracies": known},
            measure=partial(measure, place=place),
            line=lambda found: f"{found['ranking']['seconds']:.0f} s",
        )

    def table(self, found: Sequence[dict[str, Any]]) -> str:
        """Return the tables."""
        return markdown(found)

    def draw(self, found: Sequence[dict[str, Any]]) -> None:
        """Draw rank correlation against cost."""
        plot(found, self.out / "cost.png")


def main() -> int:
    """Run the benchmark of the command line."""
    return run_command(Benchmark, "python -m ddsdk_integrations.nas")


if __name__ == "__main__":
    sys.exit(main())
