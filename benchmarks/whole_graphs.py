"""`python -m benchmarks.whole_graphs`: what networks reach that train on a few graphs of each class."""

from __future__ import annotations

import dataclasses
import hashlib
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ddsdk as dd
from benchmarks.graph import COSTS, PLOT
from benchmarks.kit import Axis, Benchmark, Cell, Loaded, Options, percent_of
from ddsdk.foundation import derive, require_count
from ddsdk_integrations.graph import (
    GRAPHS_PROTOCOL,
    DosCondGraphs,
    GraphSet,
    RandomGraphs,
    TextGraphs,
    evaluate_graphs,
    read_text_graphs,
)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Values that all cells share.

    Attributes:
        networks: Networks that train on each set.
        epochs: Epochs of their training.
        steps: Steps of DosCond.
        nodes: Nodes of a synthetic graph; real ones that it starts from have no more.
    """

    networks: int = 3
    epochs: int = 200
    steps: int = 100
    nodes: int = 28

    def __post_init__(self) -> None:
        for known in dataclasses.fields(self):
            require_count(known.name, getattr(self, known.name))


METHODS: Mapping[str, Callable[[int, Setting], Any]] = {
    "random": lambda ipc, setting: RandomGraphs(ipc=ipc, nodes=setting.nodes),
    "doscond": lambda ipc, setting: DosCondGraphs(ipc=ipc, nodes=setting.nodes, steps=setting.steps),
    "all graphs": lambda ipc, setting: None,  # noqa: ARG005
}


def measure(cell: Cell, setting: Setting, graphs: TextGraphs) -> dict[str, Any]:
    """Return the accuracies on a tenth of the graphs, and what the set stores; the seed is that of the split too."""
    rng = dd.generator("whole graphs", cell.seed)
    parts = GraphSet(graphs, rng=derive(rng, "split"))
    recipe, began = METHODS[cell.method](cell["ipc"], setting), time.perf_counter()
    made = None if recipe is None else dd.distill(recipe, parts, seed=derive(rng, "set"))
    seconds = time.perf_counter() - began
    judge = dataclasses.replace(GRAPHS_PROTOCOL, networks=setting.networks, epochs=setting.epochs)
    score = evaluate_graphs(parts.train if made is None else made, parts, judge, seed=derive(rng, "judge"))
    if made is None:
        return {"gcn": score.accuracies}
    edges = 0 if made.edge_weight is None else len(made.edge_weight)
    return {"gcn": score.accuracies, "seconds": seconds, "bytes": made.manifest.storage.bytes, "edges": edges}


def _load(options: Options) -> Loaded:
    path = Path(options.root or "") / options.data
    return Loaded((read_text_graphs(path),), {"graphs": hashlib.sha256(path.read_bytes()).hexdigest()})


def _about(cell: Cell, setting: Setting) -> dict[str, Any]:
    recipe = METHODS[cell.method](cell["ipc"], setting)
    return {} if recipe is None else {"recipe": dataclasses.asdict(recipe)}


BENCHMARK = Benchmark(
    prog="python -m benchmarks.whole_graphs",
    text="Condense graphs of each class; measure what networks reach on test graphs, beside random and all graphs.\n"
    "DATA is a file in DGCNN's text form below ROOT, such as MUTAG.txt.",
    setting=Setting,
    methods=METHODS,
    measure=measure,
    axes={"ipc": Axis("1,10", "Graphs of each class, separated by commas.")},
    values=lambda method, _, values: [None] if method == "all graphs" else values,
    columns=[percent_of("gcn, %", "gcn"), *COSTS],
    about=_about,
    line=lambda r: f"{100 * statistics.fmean(r['gcn']):.1f} %",
    load=_load,
    plot=PLOT,
)

if __name__ == "__main__":
    sys.exit(BENCHMARK.run())
