"""`python -m ddsdk_integrations.explain`: rankings of training images against leave-one-out."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, final

import ddsdk as dd
from ddsdk.experiments import CellBenchmark, Question, run_command
from ddsdk_integrations.explain.benchmark import ROWS, Cell, Setting, measure
from ddsdk_integrations.explain.table import markdown, plot


@final
@dataclass(frozen=True, kw_only=True)
class Benchmark(CellBenchmark):
    """Rank training images behind predictions in several ways, and compare each with leave-one-out on all of them.

    Attributes:
        ipc: Images per class of the sets.
        steps: Of KIP.
        ridge: Of the regression on all training images, in units of the mean of the diagonal.
        queries: Test images whose predictions are explained.
        subsets: Random halves of the training images for the linear data-modelling score.
        again: Whether models of the halves are sets that KIP distils again: for small cases.
    """

    ipc: int = 10
    steps: int = 300
    ridge: float = 1e-6
    queries: int = 60
    subsets: int = 40
    again: bool = False

    def questions(self, train: dd.RealData) -> Iterable[Question]:  # noqa: ARG002
        """Return the cells."""
        setting = self.shared(Setting)
        return [Question(Cell(method=name, seed=seed), setting, measure, _line) for name, seed in self.rows(ROWS)]

    def table(self, found: Sequence[dict[str, Any]]) -> str:
        """Return the tables."""
        return markdown(found)

    def draw(self, found: Sequence[dict[str, Any]]) -> None:
        """Draw removal curves and correlations."""
        plot(found, self.out / "explain.png")


def _line(found: dict[str, Any]) -> str:
    return f"rank correlation {found['rank correlation']:.2f}, LDS {found['lds']:.2f}"


def main() -> int:
    """Run the benchmark of the command line."""
    return run_command(Benchmark, "python -m ddsdk_integrations.explain")


if __name__ == "__main__":
    sys.exit(main())
