"""`python -m ddsdk_integrations.finetune`: sets for a pretrained backbone."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, final

import ddsdk as dd
from ddsdk.experiments import CellBenchmark, Question, run_command
from ddsdk_integrations.finetune.benchmark import ROWS, Cell, Setting, markdown, measure, plot


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
        setting = self.shared(Setting)
        return [Question(Cell(method=name, seed=seed), setting, measure, _line) for name, seed in self.rows(ROWS)]

    def table(self, found: Sequence[dict[str, Any]]) -> str:
        """Return the table."""
        return markdown(found)

    def draw(self, found: Sequence[dict[str, Any]]) -> None:
        """Draw the accuracies."""
        plot(found, self.out / "finetune.png")


def _line(found: dict[str, Any]) -> str:
    return f"probe {100 * found['probe']:.1f} %, tuned {100 * found['tuned']:.1f} %"


def main() -> int:
    """Run the benchmark of the command line."""
    return run_command(Benchmark, "python -m ddsdk_integrations.finetune")


if __name__ == "__main__":
    sys.exit(main())
