"""`python -m ddsdk_integrations.texture`: seams, accuracy and floats of canvases."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, final

import ddsdk as dd
from ddsdk.experiments import CellBenchmark, Question, run_command
from ddsdk_integrations.texture.benchmark import ROWS, Cell, Setting, markdown, measure, plot

__all__ = ["Benchmark", "main"]


@final
@dataclass(frozen=True, kw_only=True)
class Benchmark(CellBenchmark):
    """Distil canvases and images that store as many floats; measure seams, and nets that train on windows.

    Attributes:
        factor: Sides of a canvas over those of an image.
        steps: Of distribution matching.
        width: Of the ConvNets.
        networks: That train on each set.
        epochs: Of their training.
        windows: Of each canvas, to train on and to look at.
    """

    factor: int = 2
    steps: int = 300
    width: int = 16
    networks: int = 2
    epochs: int = 100
    windows: int = 16

    def questions(self, train: dd.RealData) -> Iterable[Question]:  # noqa: ARG002
        """Return the cells."""
        setting = self.shared(Setting)
        return [
            Question(Cell(method=name, seed=seed), setting, measure, _line) for name, seed in self.rows(ROWS)
        ]

    def table(self, found: Sequence[dict[str, Any]]) -> str:
        """Return the table."""
        return markdown(found)

    def draw(self, found: Sequence[dict[str, Any]]) -> None:
        """Draw accuracy against seams."""
        plot(found, self.out / "texture.png")


def _line(found: dict[str, Any]) -> str:
    return f"seam {found['rows']:.2f} {found['columns']:.2f}, {100 * found['accuracy']:.1f} %"


def main() -> int:
    """Run the benchmark of the command line."""
    return run_command(Benchmark, "python -m ddsdk_integrations.texture")


if __name__ == "__main__":
    sys.exit(main())
