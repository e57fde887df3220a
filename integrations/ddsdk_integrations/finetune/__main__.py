"""`python -m ddsdk_integrations.finetune`: sets for a pretrained backbone."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, final

import ddsdk as dd
from ddsdk.bench.cells import CellBenchmark, Question, known_words, numbers, run_command
from ddsdk_integrations.finetune.benchmark import ROWS, Cell, Setting, markdown, measure, plot

__all__ = ["Benchmark", "main"]


@final
@dataclass(frozen=True, kw_only=True)
class Benchmark(CellBenchmark):
    """Pretrain a backbone on half of the classes, distil the others, and judge by probe, tuning and from scratch.

    Attributes:
        ipc: Images per class.
        steps: Of distilling.
        width: Of the ConvNets.
        pretraining: Epochs of the backbone.
        epochs: Of fine-tuning; networks from scratch take twice as many.
        networks: From scratch.
    """

    ipc: int = 1
    steps: int = 300
    width: int = 32
    pretraining: int = 30
    epochs: int = 60
    networks: int = 2

    def questions(self, train: dd.RealData) -> Iterable[Question]:  # noqa: ARG002
        """Return the cells."""
        names = ("ipc", "steps", "width", "pretraining", "epochs", "networks")
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
        """Draw the accuracies."""
        plot(found, self.out / "finetune.png")


def _question(cell: Cell, setting: Setting) -> Question:
    return Question(
        cell=cell,
        setting=setting,
        about={},
        measure=partial(measure, cell, setting),
        line=lambda found: f"{cell} probe {100 * found['probe']:.1f} %, tuned {100 * found['tuned']:.1f} %",
    )


def main() -> int:
    """Run the benchmark of the command line."""
    return run_command(Benchmark, "python -m ddsdk_integrations.finetune")


if __name__ == "__main__":
    sys.exit(main())
