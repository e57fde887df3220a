"""`python -m ddsdk_integrations.recommend`: recommendations from few users beside those from all."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import ddsdk as dd
from ddsdk.experiments import CellTable, Loaded, Question, run_command
from ddsdk_integrations.recommend.benchmark import ROWS, Cell, Setting, markdown, measure, plot
from ddsdk_integrations.recommend.interactions import Interactions, simulated_interactions


@final
@dataclass(frozen=True, kw_only=True)
class Benchmark(CellTable[Interactions]):
    """Recommend from few users, real or synthetic, and from all.

    DATA is simulated, or a CSV file with columns user, item and rating, below ROOT where that is given. A cell that was
    measured is kept in OUT/cells, so a run that was stopped goes on where it was.

    Attributes:
        least_rating: Rows of the file below it are dropped.
        people: Simulated users.
        items: Simulated items.
        users: Of a small set.
        steps: Of Distill-CF.
        draws: Of a synthetic user.
        k: How many items are recommended.
    """

    data: str = "simulated"
    least_rating: float = 0.0
    people: int = 600
    items: int = 300
    users: int = 50
    steps: int = 200
    draws: int = 200
    k: int = 10

    def load(self) -> Loaded[Interactions]:
        """Return the interactions."""
        interactions = self._interactions()
        told = hashlib.sha256(interactions.matrix.numpy().tobytes()).hexdigest()
        return Loaded(interactions, (interactions,), {"data": told})

    def questions(self, shown: Interactions) -> list[Question]:  # noqa: ARG002
        """Return the cells."""
        setting = self.shared(Setting)
        return [Question(Cell(method=name, seed=seed), setting, measure, _line) for name, seed in self.rows(ROWS)]

    def table(self, found: Sequence[dict[str, Any]]) -> str:
        """Return the table."""
        return markdown(found)

    def draw(self, found: Sequence[dict[str, Any]]) -> None:
        """Draw what each row reaches."""
        plot(found, self.out / "recommend.png")

    def _interactions(self) -> Interactions:
        if self.data != "simulated":
            return Interactions.from_csv(Path(self.root or "") / self.data, least_rating=self.least_rating)
        how = {"tastes": 6, "sharpness": 8.0, "skew": 0.8, "mean_items": 30.0}
        return simulated_interactions(self.people, self.items, dd.generator("simulated"), **how)  # type: ignore[arg-type]


def _line(found: dict[str, Any]) -> str:
    return f"nDCG {100 * found['own']['ndcg']:.1f} %"


def main() -> int:
    """Run the benchmark of the command line."""
    return run_command(Benchmark, "python -m ddsdk_integrations.recommend")


if __name__ == "__main__":
    sys.exit(main())
