"""`python -m ddsdk_integrations.graph.whole_graphs`: what networks reach that train on a few graphs of each class."""

from __future__ import annotations

import dataclasses
import hashlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import ddsdk as dd
from ddsdk.experiments import CellTable, Loaded, Question, numbers, run_command
from ddsdk.foundation import derive, require_count
from ddsdk_integrations.graph.benchmark import summary
from ddsdk_integrations.graph.classification import GRAPHS_PROTOCOL, DosCondGraphs, RandomGraphs, evaluate_graphs
from ddsdk_integrations.graph.graph_sets import GraphSet
from ddsdk_integrations.graph.load import TextGraphs, read_text_graphs
from ddsdk_integrations.graph.table import markdown, plot


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all cells of a table share.

    Attributes:
        networks: Trained on each set.
        epochs: Of each.
        steps: Of DosCond.
        nodes: Of a synthetic graph.
    """

    networks: int = 3
    epochs: int = 200
    steps: int = 100
    nodes: int = 28

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            require_count(field.name, getattr(self, field.name))


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A method, graphs per class (0 for all real ones), and the seed of the split and of everything else."""

    method: str
    ipc: int
    seed: int


METHODS: Mapping[str, Callable[[int, Setting], Any]] = {
    "random": lambda ipc, setting: RandomGraphs(ipc=ipc, nodes=setting.nodes),
    "doscond": lambda ipc, setting: DosCondGraphs(ipc=ipc, nodes=setting.nodes, steps=setting.steps),
    "all graphs": lambda ipc, setting: None,  # noqa: ARG005
}
"""Rows of the table."""


def measure(cell: Cell, setting: Setting, graphs: TextGraphs) -> dict[str, Any]:
    """Run one cell and return what the table needs, JSON values.

    Args:
        cell: The row.
        setting: What all share.
        graphs: All; the split keeps a tenth for validation and a tenth for the test, read once by each network.
    """
    rng = dd.generator("whole graphs", cell.seed)
    parts = GraphSet(graphs, rng=derive(rng, "split"))
    recipe, began = METHODS[cell.method](cell.ipc, setting), time.perf_counter()
    found = None if recipe is None else dd.distill(recipe, parts, seed=derive(rng, "set"))
    seconds = time.perf_counter() - began
    judge = dataclasses.replace(GRAPHS_PROTOCOL, networks=setting.networks, epochs=setting.epochs)
    score = evaluate_graphs(parts.train if found is None else found, parts, judge, rng=derive(rng, "judge"))
    told = {"cell": dataclasses.asdict(cell), "scores": {"gcn": summary(score.accuracies)}}
    if found is None:
        return told
    edges = 0 if found.edge_weight is None else len(found.edge_weight)
    return {**told, "seconds": seconds, "bytes": found.manifest.storage.bytes, "edges": edges}


@final
@dataclass(frozen=True, kw_only=True)
class Benchmark(CellTable[TextGraphs]):
    """Condense graphs of each class, and print what networks reach on real test graphs beside random and all graphs.

    DATA is a file in DGCNN's text form below ROOT, such as MUTAG.txt. A cell that was measured is kept in OUT/cells, so
    a run that was stopped goes on where it was.

    Attributes:
        ipc: Graphs of each class, separated by commas.
        networks: Trained on each set.
        epochs: Of each.
        steps: Of DosCond.
        nodes: Of a synthetic graph; real ones that it starts from have no more.
    """

    ipc: str = "1,10"
    networks: int = 3
    epochs: int = 200
    steps: int = 100
    nodes: int = 28

    def load(self) -> Loaded[TextGraphs]:
        """Return the graphs."""
        path = Path(self.root or "") / self.data
        graphs = read_text_graphs(path)
        return Loaded(graphs, (graphs,), {"graphs": hashlib.sha256(path.read_bytes()).hexdigest()})

    def questions(self, shown: TextGraphs) -> list[Question]:  # noqa: ARG002
        """Return the cells."""
        setting = self.shared(Setting)
        cells = [
            Cell(method=name, ipc=ipc, seed=seed)
            for name, seed in self.rows(METHODS)
            for ipc in ([0] if name == "all graphs" else numbers("ipc", self.ipc, 1))
        ]
        return [_question(cell, setting) for cell in cells]

    def table(self, found: Sequence[dict[str, Any]]) -> str:
        """Return the table."""
        return markdown(found, self.data)

    def draw(self, found: Sequence[dict[str, Any]]) -> None:
        """Draw accuracy against time."""
        plot(found, self.out / "seconds.png")


def _question(cell: Cell, setting: Setting) -> Question:
    recipe = METHODS[cell.method](cell.ipc, setting) if cell.ipc else None
    return Question(
        cell=cell,
        setting=setting,
        about={"recipe": None if recipe is None else dataclasses.asdict(recipe)},
        measure=measure,
        line=lambda found: f"{100 * found['scores']['gcn']['mean']:.1f} %",
    )


def main() -> int:
    """Run the benchmark of the command line."""
    return run_command(Benchmark, "python -m ddsdk_integrations.graph.whole_graphs")


if __name__ == "__main__":
    sys.exit(main())
