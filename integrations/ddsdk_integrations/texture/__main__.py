"""`python -m ddsdk_integrations.texture`: seams, accuracy and floats of canvases."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, final

import ddsdk as dd
from ddsdk.bench.cells import CellBenchmark, Question, known_words, numbers, run_command
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
        names = ("factor", "steps", "width", "networks", "epochs", "windows")
        setting = Setting(**{name: getattr(self, name) for name in names})
        return [
            _question(Cell(method=name, seed=seed), setting)
            for name in known_words("methods", self.methods, ROWS)
            for seed in numbers("seeds", self.seeds, 0)
        ]

    def table(self, found: Sequence[dict[str, Any]]) -> str:
        """Return the table."""
        return markdown(found)

    def draw(self, found: Sequence[dict[str, Any]]) -> None:
        """Draw accuracy against seams."""
        plot(found, self.out / "texture.png")


def _question(cell: Cell, setting: Setting) -> Question:
    return Question(
        cell=cell,
        setting=setting,
        about={},
        measure=partial(measure, cell, setting),
        line=lambda found: (
            f"{cell} seam {found['rows']:.2f} {found['columns']:.2f}, {100 * found['accuracy']:.1f} %"
        ),
    )


def main() -> int:
    """Run the benchmark of the command line."""
    return run_command(Benchmark, "python -m ddsdk_integrations.texture")


if __name__ == "__main__":
    sys.exit(main())
