"""`python -m benchmarks.whole_graphs`: test accuracy of networks trained on a few graphs of each class."""

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
from benchmarks.kit import Axis, Benchmark, Loaded, Options, RunConfig, percent_of
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
class ExperimentConfig:
    """Settings of all runs.

    Attributes:
        networks: Number of networks trained on each set.
        epochs: Number of training epochs of each network.
        steps: Number of steps of DosCond.
        nodes: Number of nodes of a synthetic graph, and maximum for the real graphs of its initialisation.
    """

    networks: int = 3
    epochs: int = 200
    steps: int = 100
    nodes: int = 28

    def __post_init__(self) -> None:
        for setting in dataclasses.fields(self):
            require_count(setting.name, getattr(self, setting.name))


METHODS: Mapping[str, Callable[[int, ExperimentConfig], Any]] = {
    "random": lambda ipc, config: RandomGraphs(ipc=ipc, nodes=config.nodes),
    "doscond": lambda ipc, config: DosCondGraphs(ipc=ipc, nodes=config.nodes, steps=config.steps),
    "all graphs": lambda ipc, config: None,  # noqa: ARG005
}


def measure(run: RunConfig, config: ExperimentConfig, graphs: TextGraphs) -> dict[str, Any]:
    """Return the accuracies on the test graphs, a tenth of all by the seed of the run, and the size of the set."""
    rng = dd.generator("whole graphs", run.seed)
    parts = GraphSet(graphs, rng=derive(rng, "split"))
    recipe, began = METHODS[run.method](run["ipc"], config), time.perf_counter()
    condensed = None if recipe is None else dd.distill(recipe, parts, seed=derive(rng, "set"))
    seconds = time.perf_counter() - began
    judge = dataclasses.replace(GRAPHS_PROTOCOL, networks=config.networks, epochs=config.epochs)
    score = evaluate_graphs(parts.train if condensed is None else condensed, parts, judge, seed=derive(rng, "judge"))
    if condensed is None:
        return {"gcn": score.accuracies}
    edges = 0 if condensed.edge_weight is None else len(condensed.edge_weight)
    return {"gcn": score.accuracies, "seconds": seconds, "bytes": condensed.manifest.storage.bytes, "edges": edges}


def _load(options: Options) -> Loaded:
    path = Path(options.root or "") / options.data
    return Loaded((read_text_graphs(path),), {"graphs": hashlib.sha256(path.read_bytes()).hexdigest()})


def _about(run: RunConfig, config: ExperimentConfig) -> dict[str, Any]:
    recipe = METHODS[run.method](run["ipc"], config)
    return {} if recipe is None else {"recipe": dataclasses.asdict(recipe)}


BENCHMARK = Benchmark(
    prog="python -m benchmarks.whole_graphs",
    text="Condense the graphs of each class; compare test accuracies with random graphs and with all graphs.\n"
    "DATA is a file in DGCNN's text format below ROOT, such as MUTAG.txt.",
    config=ExperimentConfig,
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
