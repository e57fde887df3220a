"""`python -m ddsdk_integrations.graph`: what networks reach that train on condensed graphs."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, final

from ddsdk.experiments import CellTable, Loaded, Question, numbers, run_command, words
from ddsdk.foundation import require
from ddsdk_integrations.graph.benchmark import METHODS, Cell, Setting, measure
from ddsdk_integrations.graph.data import GraphData
from ddsdk_integrations.graph.load import load_graph
from ddsdk_integrations.graph.networks import GRAPH_NETWORKS
from ddsdk_integrations.graph.table import markdown, plot


@final
@dataclass(frozen=True, kw_only=True)
class Benchmark(CellTable[GraphData]):
    """Condense graphs, and print what networks reach on the real test nodes beside baselines and published figures.

    DATA is cora (rows of features sum to 1), cora-words (0 and 1) or tolokers, whose files lie below ROOT, or sbm-N for
    N generated nodes. A cell that was measured is kept in OUT/cells, so a run that was stopped goes on where it was.

    Attributes:
        nodes: Synthetic nodes, separated by commas.
        setting: Whether condensation sees held-out nodes without their labels (transductive), or not (inductive).
        networks: Trained on each set.
        epochs: Steps of each.
        width: Their hidden units.
        others: Further networks beside gcn, separated by commas: sgc, appnp, sage, gat, cheb, mlp.
    """

    nodes: str = "35,70,140"
    setting: Literal["transductive", "inductive"] = "transductive"
    networks: int = 10
    epochs: int = 600
    width: int = 256
    others: str = ""

    def load(self) -> Loaded[GraphData]:
        """Return the graph."""
        graph = load_graph(self.data, self.root, setting=self.setting)
        return Loaded(graph, (graph,), {"graph": graph.description["fingerprint"]})

    def questions(self, shown: GraphData) -> list[Question]:  # noqa: ARG002
        """Return the cells."""
        others = tuple(words(self.others))
        for name in others:
            require(name in GRAPH_NETWORKS, "others", f"be among {', '.join(GRAPH_NETWORKS)}", name)
        setting = Setting(networks=self.networks, epochs=self.epochs, width=self.width, others=others)
        cells = [
            Cell(method=name, nodes=n, seed=seed)
            for name, seed in self.rows(METHODS)
            for n in ([0] if name == "whole graph" else numbers("nodes", self.nodes, 2))
        ]
        return [_question(cell, setting) for cell in cells]

    def table(self, found: Sequence[dict[str, Any]]) -> str:
        """Return the table."""
        return markdown(found, self.data)

    def draw(self, found: Sequence[dict[str, Any]]) -> None:
        """Draw accuracy against time."""
        plot(found, self.out / "seconds.png")


def _question(cell: Cell, setting: Setting) -> Question:
    recipe = METHODS[cell.method](cell.nodes) if cell.nodes else None
    return Question(
        cell=cell,
        setting=setting,
        about={"recipe": None if recipe is None else dataclasses.asdict(recipe)},
        measure=measure,
        line=lambda found: f"{found['scores']} {found.get('seconds', 0):.0f} s",
    )


def main() -> int:
    """Run the benchmark of the command line."""
    return run_command(Benchmark, "python -m ddsdk_integrations.graph")


if __name__ == "__main__":
    sys.exit(main())
