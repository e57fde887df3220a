"""`python -m ddsdk_integrations.continual`: memories of equal bytes on Split-FashionMNIST and its like."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import ddsdk as dd
from ddsdk.bench.cells import benchmark_data, known_words, numbers, once, run_command, words, write_results
from ddsdk_integrations.continual.benchmark import LEARNERS, METHODS, Cell, Setting, measure
from ddsdk_integrations.continual.table import markdown, plot

__all__ = ["Benchmark", "main"]


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Learn a stream of class pairs with memories of equal bytes, and print what replay and the memory alone reach.

    A cell that was measured is kept in OUT/cells, so a run that was stopped goes on where it was; two commands with
    other seeds may share a folder, and the same one with all of them then writes the table.

    Attributes:
        data: Name of the data, see `ddsdk distill`.
        out: Folder of the cells, table.md, cells.json and the plots.
        root: Where named data sets lie.
        scenario: class or domain, or both separated by a comma.
        methods: Memories, separated by commas; all if empty.
        ipc: Real images per class whose bytes a memory may take, separated by commas.
        seeds: Separated by commas.
        learners: Networks that learn, separated by commas.
        seconds: For the distillation of each experience.
        epochs: Passes over each experience.
        images: Training images of each class; None for all.
        threads: CPU threads; None leaves it to torch.
        held_out: Test on so large a part of the training images, and train on the rest; 0 tests on the test set.
        plots: Draw the plots, which needs matplotlib.
    """

    data: str
    out: Path
    root: str | None = None
    scenario: str = "class"
    methods: str = ""
    ipc: str = "1,5,10"
    seeds: str = "0,1,2,3,4"
    learners: str = "mlp,lenet"
    seconds: float = 6.0
    epochs: int = 1
    images: int | None = None
    threads: int | None = None
    held_out: float = 0.0
    plots: bool = True

    def run(self) -> None:
        """Measure what is missing, and write the table."""
        wanted = list(self._wanted())
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        train, test = benchmark_data(self.data, root=self.root, held_out=self.held_out, images=self.images)
        found = [self._measured(cell, setting, train, test) for cell, setting in wanted]
        write_results(self.out, found, markdown(found))
        if self.plots:
            for learner in words(self.learners):
                plot(found, self.out / f"replay-{learner}.png", learner=learner)
                plot(found, self.out / f"alone-{learner}.png", learner=learner, field="memory_only")

    def _wanted(self) -> Iterator[tuple[Cell, Setting]]:
        methods = known_words("methods", self.methods, METHODS)
        known_words("learners", self.learners, LEARNERS)
        sizes, seeds = numbers("ipc", self.ipc, 1), numbers("seeds", self.seeds, 0)
        for scenario in words(self.scenario):
            setting = Setting(scenario=scenario, epochs=self.epochs, seconds=self.seconds)
            for seed in seeds:
                for ipc in sizes:
                    for method in methods:
                        # Without a memory there is nothing that a number of images would change.
                        if method != "naive" or ipc == sizes[0]:
                            yield Cell(method=method, ipc=ipc, seed=seed), setting

    def _measured(self, cell: Cell, setting: Setting, train: dd.RealData, test: dd.RealData) -> Any:  # noqa: ANN401
        asked = {
            "cell": dataclasses.asdict(cell),
            "setting": dataclasses.asdict(setting),
            "method": repr(METHODS[cell.method]),
            "learners": {name: LEARNERS[name] for name in words(self.learners)},
            "train": train.fingerprint,
            "test": test.fingerprint,
        }
        learners = words(self.learners)
        found, new = once(self.out / "cells", asked, lambda: measure(cell, setting, train, test, learners))
        if not new:
            return found
        told = {name: round(100 * outcome["accuracy"], 1) for name, outcome in found["learners"].items()}
        print(setting.scenario, cell.ipc, cell.method, cell.seed, told, flush=True)  # noqa: T201
        return found


def main() -> int:
    """Run the benchmark of the command line."""
    return run_command(Benchmark, "python -m ddsdk_integrations.continual")


if __name__ == "__main__":
    sys.exit(main())
