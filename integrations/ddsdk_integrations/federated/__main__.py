"""`python -m ddsdk_integrations.federated`: accuracy against measured bytes on a split among clients."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import ddsdk as dd
from ddsdk.experiments import CellBenchmark, Question, known_words, numbers, run_command, words
from ddsdk.foundation import require_rate
from ddsdk_integrations.federated.benchmark import METHODS, Cell, Setting, described, measure
from ddsdk_integrations.federated.table import markdown, plot


@final
@dataclass(frozen=True, kw_only=True)
class Benchmark(CellBenchmark):
    """Split a data set among clients, and print what averaging and exchange of sets reach, by measured bytes.

    A cell that was measured is kept in OUT/cells, so a run that was stopped goes on where it was; two commands with
    other methods may share a folder, and one with all of them then writes the table.

    Attributes:
        alpha: Concentrations of the Dirichlet split, separated by commas.
        clients: How many.
        width: Of the ConvNet.
        lr: Of clients that train weights.
    """

    alpha: str = "0.5,0.1,0.01"
    clients: int = 10
    width: int = 32
    lr: float = 0.1

    def questions(self, train: dd.RealData) -> list[Question]:
        """Return the cells."""
        setting = self.shared(Setting)
        methods = known_words("methods", self.methods, METHODS)
        alphas = [float(word) for word in words(self.alpha)]
        for alpha in alphas:
            require_rate("alpha", alpha)
        seeds = numbers("seeds", self.seeds, 0)
        cells = [Cell(method=m, alpha=a, seed=s) for a in alphas for s in seeds for m in methods]
        return [_question(cell, setting, train) for cell in cells]

    def table(self, found: Sequence[dict[str, Any]]) -> str:
        """Return a table for each split."""
        return markdown(found)

    def draw(self, found: Sequence[dict[str, Any]]) -> None:
        """Draw accuracy against bytes."""
        plot(found, self.out / "bytes.png")


def _question(cell: Cell, setting: Setting, train: dd.RealData) -> Question:
    def line(found: dict[str, Any]) -> str:
        last = found["curve"][-1]
        told = f"{100 * last['accuracy']:.1f} %, {(last['up'] + last['down']) / 1e6:.3f} MB"
        return f"{told}, {found['seconds']:.0f} s"

    return Question(
        cell=cell, setting=setting, about={"method": described(cell, setting, train)}, measure=measure, line=line
    )


def main() -> int:
    """Run the benchmark of the command line."""
    logging.getLogger("flwr").setLevel(logging.WARNING)
    return run_command(Benchmark, "python -m ddsdk_integrations.federated")


if __name__ == "__main__":
    sys.exit(main())
