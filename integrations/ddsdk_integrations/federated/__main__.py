"""`python -m ddsdk_integrations.federated`: accuracy against measured bytes on a split among clients."""

from __future__ import annotations

import dataclasses
import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import ddsdk as dd
from ddsdk.bench.cells import benchmark_data, known_words, numbers, once, run_command, words, write_results
from ddsdk.errors import require_rate
from ddsdk_integrations.federated.benchmark import METHODS, Cell, Setting, described, measure
from ddsdk_integrations.federated.table import markdown, plot

__all__ = ["Benchmark", "main"]


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Split a data set among clients, and print what averaging and exchange of sets reach, by measured bytes.

    A cell that was measured is kept in OUT/cells, so a run that was stopped goes on where it was; two commands with
    other methods may share a folder, and one with all of them then writes the table.

    Attributes:
        data: Name of the data, see `ddsdk distill`.
        out: Folder of the cells, table.md, cells.json and the plot.
        root: Where named data sets lie.
        alpha: Concentrations of the Dirichlet split, separated by commas.
        methods: Separated by commas; all if empty.
        seeds: Separated by commas.
        clients: How many.
        width: Of the ConvNet.
        lr: Of clients that train weights.
        images: Training images of each class; None for all.
        threads: CPU threads; None leaves it to torch.
        held_out: Test on so large a part of the training images, and train on the rest; 0 tests on the test set.
        plots: Draw the plot, which needs matplotlib.
    """

    data: str
    out: Path
    root: str | None = None
    alpha: str = "0.5,0.1,0.01"
    methods: str = ""
    seeds: str = "0"
    clients: int = 10
    width: int = 32
    lr: float = 0.1
    images: int | None = None
    threads: int | None = None
    held_out: float = 0.0
    plots: bool = True

    def run(self) -> None:
        """Measure what is missing, and write the table."""
        setting = Setting(clients=self.clients, width=self.width, lr=self.lr)
        wanted = self._wanted()
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        logging.getLogger("flwr").setLevel(logging.WARNING)
        train, test = benchmark_data(self.data, root=self.root, held_out=self.held_out, images=self.images)
        found = [self._measured(cell, setting, train, test) for cell in wanted]
        write_results(self.out, found, markdown(found))
        if self.plots:
            plot(found, self.out / "bytes.png")

    def _wanted(self) -> list[Cell]:
        methods = known_words("methods", self.methods, METHODS)
        alphas = [float(word) for word in words(self.alpha)]
        for alpha in alphas:
            require_rate("alpha", alpha)
        seeds = numbers("seeds", self.seeds, 0)
        return [Cell(method=m, alpha=a, seed=s) for a in alphas for s in seeds for m in methods]

    def _measured(self, cell: Cell, setting: Setting, train: dd.RealData, test: dd.RealData) -> Any:  # noqa: ANN401
        asked = {
            "cell": dataclasses.asdict(cell),
            "setting": dataclasses.asdict(setting),
            "method": described(cell, setting, train),
            "train": train.fingerprint,
            "test": test.fingerprint,
        }
        found, new = once(self.out / "cells", asked, lambda: measure(cell, setting, train, test))
        if new:
            last = found["curve"][-1]
            told = f"{100 * last['accuracy']:.1f} %, {(last['up'] + last['down']) / 1e6:.3f} MB"
            print(cell.alpha, cell.method, cell.seed, told, f"{found['seconds']:.0f} s", flush=True)  # noqa: T201
        return found


def main() -> int:
    """Run the benchmark of the command line."""
    return run_command(Benchmark, "python -m ddsdk_integrations.federated")


if __name__ == "__main__":
    sys.exit(main())
