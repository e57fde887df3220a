"""`python -m ddsdk_integrations.privacy`: accuracy of private sets at equal budgets."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import ddsdk as dd
from ddsdk.experiments import CellBenchmark, Question, known_words, numbers, run_command, words
from ddsdk_integrations.privacy.benchmark import METHODS, Cell, Setting, described, measure
from ddsdk_integrations.privacy.table import markdown, plot


@final
@dataclass(frozen=True, kw_only=True)
class Benchmark(CellBenchmark):
    """Distil privately, and print what networks reach on the sets beside DP-SGD, published figures and no privacy.

    A cell that was measured is kept in OUT/cells, so a run that was stopped goes on where it was; two commands with
    other methods may share a folder, and one with all of them then writes the table.

    Attributes:
        epsilon: Budgets, separated by commas.
        ipc: Images per class, separated by commas.
        delta: Of all budgets.
        width: Of the ConvNets that recipes use.
        judge_width: Of the ConvNets that train on the sets.
        networks: Trained on each set.
    """

    epsilon: str = "1,10"
    ipc: str = "10,50"
    delta: float = 1e-5
    width: int = 16
    judge_width: int = 32
    networks: int = 3

    def questions(self, train: dd.RealData) -> list[Question]:  # noqa: ARG002
        """Return the cells."""
        setting = self.shared(Setting)
        budgets, sizes = [float(word) for word in words(self.epsilon)], numbers("ipc", self.ipc, 1)
        cells = [
            Cell(method=name, epsilon=epsilon, ipc=ipc, seed=seed)
            for name in known_words("methods", self.methods, METHODS)
            for epsilon in (budgets if METHODS[name].private else [None])
            for ipc in METHODS[name].sizes
            if ipc in (0, *sizes)
            for seed in numbers("seeds", self.seeds, 0)
        ]
        return [_question(cell, setting) for cell in cells]

    def table(self, found: Sequence[dict[str, Any]]) -> str:
        """Return the table."""
        return markdown(found)

    def draw(self, found: Sequence[dict[str, Any]]) -> None:
        """Draw accuracy against epsilon."""
        plot(found, self.out / "epsilon.png")


def _question(cell: Cell, setting: Setting) -> Question:
    return Question(
        cell=cell,
        setting=setting,
        about={"method": described(cell)},
        measure=measure,
        line=lambda found: f"{100 * found['accuracy']:.1f} %, {found['seconds']:.0f} s",
    )


def main() -> int:
    """Run the benchmark of the command line."""
    return run_command(Benchmark, "python -m ddsdk_integrations.privacy")


if __name__ == "__main__":
    sys.exit(main())
