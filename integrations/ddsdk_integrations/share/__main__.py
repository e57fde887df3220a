"""`python -m ddsdk_integrations.share`: use, attacks and limits of sets of simulated patients."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, final

import ddsdk as dd
from ddsdk.experiments import CellBenchmark, Question, run_command, words
from ddsdk_integrations.share.benchmark import ROWS, Cell, Setting, measure
from ddsdk_integrations.share.table import markdown, plot


@final
@dataclass(frozen=True, kw_only=True)
class Benchmark(CellBenchmark):
    """Make images those of simulated patients, distil, audit, and hold each set against the default limits.

    Attributes:
        splits: What is held out, patient or image, separated by commas.
        ipc: Images per class.
        steps: Of distilling.
        width: Of the ConvNets.
        per_patient: Images of each simulated patient.
        networks: That attack, and are tested.
        epochs: Of their training.
    """

    splits: str = "patient,image"
    ipc: int = 5
    steps: int = 300
    width: int = 16
    per_patient: int = 10
    networks: int = 3
    epochs: int = 150

    def questions(self, train: dd.RealData) -> Iterable[Question]:  # noqa: ARG002
        """Return the cells."""
        setting = self.shared(Setting)
        return [
            Question(Cell(method=name, split=split, seed=seed), setting, measure, _line)
            for split in words(self.splits)
            for name, seed in self.rows(ROWS)
        ]

    def table(self, found: Sequence[dict[str, Any]]) -> str:
        """Return the table."""
        return markdown(found)

    def draw(self, found: Sequence[dict[str, Any]]) -> None:
        """Draw use against attacks."""
        plot(found, self.out / "share.png")


def _line(found: dict[str, Any]) -> str:
    return f"{100 * found['figures']['balanced']:.1f} %, broken: {found['broken']}"


def main() -> int:
    """Run the benchmark of the command line."""
    return run_command(Benchmark, "python -m ddsdk_integrations.share")


if __name__ == "__main__":
    sys.exit(main())
