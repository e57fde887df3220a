"""`python -m ddsdk_integrations.recommend`: recommendations from few users beside those from all."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import final

import torch

import ddsdk as dd
from ddsdk.bench.cells import known_words, numbers, once, run_command, write_results
from ddsdk_integrations.recommend.benchmark import ROWS, Cell, Setting, markdown, measure, plot
from ddsdk_integrations.recommend.interactions import Interactions, simulated_interactions

__all__ = ["Benchmark", "main"]


@final
@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Recommend from few users, real or synthetic, and from all; on simulated interactions or those of a file.

    Attributes:
        out: Folder of the cells, table.md, cells.json and the plot.
        table: CSV file with columns user, item and rating; None simulates interactions.
        least_rating: Rows of the file below it are dropped.
        people: Simulated users.
        items: Simulated items.
        methods: Rows, separated by commas; all if empty.
        seeds: Separated by commas.
        users: Of a small set.
        steps: Of Distill-CF.
        draws: Of a synthetic user.
        k: How many items are recommended.
        threads: CPU threads; None leaves it to torch.
        plots: Draw the plot, which needs matplotlib.
    """

    out: Path
    table: Path | None = None
    least_rating: float = 0.0
    people: int = 600
    items: int = 300
    methods: str = ""
    seeds: str = "0"
    users: int = 50
    steps: int = 200
    draws: int = 200
    k: int = 10
    threads: int | None = None
    plots: bool = True

    def run(self) -> None:
        """Measure what is missing, and write the results."""
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        table, setting = (
            self._interactions(),
            Setting(users=self.users, steps=self.steps, draws=self.draws, k=self.k),
        )
        data = hashlib.sha256(table.matrix.numpy().tobytes()).hexdigest()
        methods = known_words("methods", self.methods, dict.fromkeys(ROWS))
        found = []
        for cell in (Cell(method=m, seed=s) for m in methods for s in numbers("seeds", self.seeds, 0)):
            question = {"cell": asdict(cell), "setting": asdict(setting), "data": data}
            answer, new = once(self.out / "cells", question, partial(measure, cell, setting, table))
            if new:
                print(f"{cell} nDCG {100 * answer['own']['ndcg']:.1f} %", flush=True)  # noqa: T201
            found.append(answer)
        write_results(self.out, found, markdown(found))
        if self.plots:
            plot(found, self.out / "recommend.png")

    def _interactions(self) -> Interactions:
        if self.table is not None:
            return Interactions.from_csv(self.table, least_rating=self.least_rating)
        how = {"tastes": 6, "sharpness": 8.0, "skew": 0.8, "mean_items": 30.0}
        return simulated_interactions(self.people, self.items, dd.generator("simulated"), **how)  # type: ignore[arg-type]


def main() -> int:
    """Run the benchmark of the command line."""
    return run_command(Benchmark, "python -m ddsdk_integrations.recommend")


if __name__ == "__main__":
    sys.exit(main())
