"""`python -m ddsdk_integrations.continual`: memories of equal bytes on Split-FashionMNIST and its like."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, final

import ddsdk as dd
from ddsdk.experiments import CellBenchmark, Question, known_words, numbers, run_command, words
from ddsdk_integrations.continual.benchmark import LEARNERS, METHODS, Cell, Setting, measure
from ddsdk_integrations.continual.table import markdown, plot


@final
@dataclass(frozen=True, kw_only=True)
class Benchmark(CellBenchmark):
    """Learn a stream of class pairs with memories of equal bytes, and print what replay and the memory alone reach.

    A cell that was measured is kept in OUT/cells, so a run that was stopped goes on where it was; two commands with
    other seeds may share a folder, and the same one with all of them then writes the table.

    Attributes:
        scenario: class or domain, or both separated by a comma.
        ipc: Real images per class whose bytes a memory may take, separated by commas.
        learners: Networks that learn, separated by commas.
        seconds: For the distillation of each experience.
        epochs: Passes over each experience.
    """

    scenario: str = "class"
    ipc: str = "1,5,10"
    seeds: str = "0,1,2,3,4"
    learners: str = "mlp,lenet"
    seconds: float = 6.0
    epochs: int = 1

    def questions(self, train: dd.RealData) -> Iterator[Question]:  # noqa: ARG002
        """Return the cells."""
        methods = known_words("methods", self.methods, METHODS)
        learners = known_words("learners", self.learners, LEARNERS)
        sizes, seeds = numbers("ipc", self.ipc, 1), numbers("seeds", self.seeds, 0)
        for scenario in words(self.scenario):
            setting = Setting(scenario=scenario, epochs=self.epochs, seconds=self.seconds)
            for seed in seeds:
                for ipc in sizes:
                    for method in methods:
                        # Without a memory there is nothing that a number of images would change.
                        if method != "naive" or ipc == sizes[0]:
                            yield _question(Cell(method=method, ipc=ipc, seed=seed), setting, learners)

    def table(self, found: Sequence[dict[str, Any]]) -> str:
        """Return the table."""
        return markdown(found)

    def draw(self, found: Sequence[dict[str, Any]]) -> None:
        """Draw two plots for each learner."""
        for learner in words(self.learners):
            plot(found, self.out / f"replay-{learner}.png", learner=learner)
            plot(found, self.out / f"alone-{learner}.png", learner=learner, field="memory_only")


def _question(cell: Cell, setting: Setting, learners: list[str]) -> Question:
    def line(found: dict[str, Any]) -> str:
        told = {name: round(100 * outcome["accuracy"], 1) for name, outcome in found["learners"].items()}
        return f"{setting.scenario} {told}"

    return Question(
        cell=cell,
        setting=setting,
        about={"method": repr(METHODS[cell.method]), "learners": {name: LEARNERS[name] for name in learners}},
        measure=partial(measure, learners=learners),
        line=line,
    )


def main() -> int:
    """Run the benchmark of the command line."""
    return run_command(Benchmark, "python -m ddsdk_integrations.continual")


if __name__ == "__main__":
    sys.exit(main())
