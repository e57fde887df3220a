"""`python -m benchmarks.graph`: test accuracy of graph neural networks trained on condensed graphs."""

from __future__ import annotations

import dataclasses
import statistics
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import ddsdk as dd
from benchmarks.kit import (
    Axis,
    Benchmark,
    Column,
    Loaded,
    Options,
    Plot,
    RunConfig,
    RunGroup,
    known_words,
    mean_of,
    percent_of,
)
from ddsdk.foundation import derive, require_count
from ddsdk_integrations.graph import (
    GCDM,
    GCSNTK,
    GRAPH_NETWORKS,
    GRAPH_PROTOCOL,
    SFGC,
    CoresetNodes,
    DosCond,
    GCond,
    GraphData,
    PropagatedNodes,
    evaluate_graph,
    load_graph,
    whole_graph_scores,
)


@dataclass(frozen=True, kw_only=True)
class ExperimentConfig:
    """Settings of all runs.

    Attributes:
        setting: Visibility of validation and test nodes during condensation. transductive: with features and edges.
            inductive: not at all.
        networks: Number of networks trained on each condensed graph.
        epochs: Number of training steps of each network.
        width: Number of hidden units of the networks.
        others: Further networks beside gcn, separated by commas: sgc, appnp, sage, gat, cheb, mlp.
    """

    setting: Literal["transductive", "inductive"] = "transductive"
    networks: int = 10
    epochs: int = 600
    width: int = 256
    others: str = ""

    def __post_init__(self) -> None:
        for name in ("networks", "epochs", "width"):
            require_count(name, getattr(self, name))
        known_words("others", self.others, GRAPH_NETWORKS)

    @property
    def judges(self) -> dict[str, dd.TrainingProtocol]:
        """Training protocols of the evaluation networks, by name."""
        others = known_words("others", self.others, GRAPH_NETWORKS) if self.others else []
        changes = {"network_options": {"width": self.width}, "networks": self.networks, "epochs": self.epochs}
        return {n: dataclasses.replace(GRAPH_PROTOCOL, network=n, **changes) for n in ("gcn", *others)}  # type: ignore[arg-type]


METHODS: Mapping[str, Callable[[int], Any]] = {
    "gcond-x": lambda n: GCond(nodes=n, structure="none"),
    "gcond": lambda n: GCond(nodes=n),
    "sfgc": lambda n: SFGC(nodes=n, experts=3, steps=60, validate_every=20),
    "gc-sntk": lambda n: GCSNTK(nodes=n, layers=1, feature_lr=5e-4, validate_every=10),
    "gc-sntk with labels": lambda n: GCSNTK(
        nodes=n, steps=100, ridge=0.1, feature_lr=2e-3, label_lr=0.02, start="means", validate_every=10
    ),
    "gc-sntk as published": lambda n: GCSNTK(nodes=n, start="real", validate_every=10),
    "whole graph": lambda n: None,  # noqa: ARG005
    "random": lambda n: CoresetNodes(nodes=n),
    "propagated": lambda n: PropagatedNodes(nodes=n),
    "class means": lambda n: PropagatedNodes(nodes=n, means=True),
    "doscond": lambda n: DosCond(nodes=n, validate_every=20),
    "gcdm": lambda n: GCDM(nodes=n, steps=60, validate_every=20),
    "herding": lambda n: CoresetNodes(nodes=n, choice="herding"),
    "k-center": lambda n: CoresetNodes(nodes=n, choice="k-center"),
}
"""Methods by name, as functions of the number of synthetic nodes; None for the whole graph.

Settings are published or were chosen on the validation nodes of Cora with 70 synthetic nodes. The published settings of
GC-SNTK are for binary features, the data set cora-words.
"""


def _by_nodes(*accuracies: float) -> dict[int | None, float]:
    return dict(zip((35, 70, 140), accuracies, strict=True))


PUBLISHED: Mapping[tuple[str, str], Mapping[int | None, float]] = {
    ("cora", "random"): _by_nodes(63.6, 72.8, 76.8),
    ("cora", "herding"): _by_nodes(67.0, 73.4, 76.8),
    ("cora", "k-center"): _by_nodes(64.0, 73.2, 76.7),
    ("cora", "doscond"): _by_nodes(80.2, 80.4, 79.8),
    ("cora", "gcond-x"): _by_nodes(75.9, 75.7, 76.0),
    ("cora", "gcond"): _by_nodes(81.2, 81.0, 81.1),
    ("cora", "gc-sntk"): _by_nodes(82.2, 82.4, 82.1),
    ("cora", "whole graph"): {None: 81.1},
    ("cora-words", "gc-sntk as published"): _by_nodes(82.2, 82.4, 82.1),
}
"""Accuracies in percent of table 3 of the GC-SNTK paper (WWW 2024): GC-SNTK with its kernel, all others with GCN."""


def measure(run: RunConfig, config: ExperimentConfig, graph: GraphData) -> dict[str, Any]:
    """Return the accuracies of each network on the test nodes, and the size of the condensed graph."""
    rng, recipe, judges = dd.generator("graph", run.seed), METHODS[run.method](run["nodes"]), config.judges
    if recipe is None:
        return {"graph": graph.name, "gcn": whole_graph_scores(graph, judges["gcn"], seed=derive(rng, "judge"))}
    condensed = dd.distill(recipe, graph, seed=rng)
    own_protocol, scores = dd.TrainingProtocol.from_dict(condensed.protocol), {}
    if own_protocol.learner == "kernel":
        scores["kernel"] = evaluate_graph(condensed, graph, own_protocol, seed=rng).accuracies
        judges = {name: dataclasses.replace(judge, labels="hard") for name, judge in judges.items()}
    for name, judge in judges.items():
        scores[name] = evaluate_graph(condensed, graph, judge, seed=derive(rng, "judge", name)).accuracies
    return {
        "graph": graph.name,
        **scores,
        "seconds": condensed.provenance["seconds"],
        "bytes": condensed.manifest.storage.bytes,
        "edges": 0 if condensed.edge_weight is None else len(condensed.edge_weight),
    }


def _load(options: Options) -> Loaded:
    graph = load_graph(options.data, options.root, setting=options.setting)  # type: ignore[attr-defined]
    return Loaded((graph,), {"graph": graph.description["fingerprint"]})


def _about(run: RunConfig, config: ExperimentConfig) -> dict[str, Any]:  # noqa: ARG001
    recipe = METHODS[run.method](run["nodes"])
    return {} if recipe is None else {"recipe": dataclasses.asdict(recipe)}


def published(group: RunGroup) -> str:
    """Return the published accuracy of a group in percent as text; a dash for an unpublished one."""
    accuracies = PUBLISHED.get((group.results[0]["graph"], group.method), {})
    return str(accuracies.get(group.at["nodes"], "–"))


def points(group: RunGroup) -> list[tuple[float | None, float]]:
    """Return one point: mean seconds of condensation, None for the whole graph, and mean accuracy of GCN in percent."""
    percent = 100 * statistics.fmean(statistics.fmean(r["gcn"]) for r in group.results)
    if "seconds" not in group.results[0]:
        return [(None, percent)]
    return [(statistics.fmean(max(0.01, r["seconds"]) for r in group.results), percent)]


COSTS = [
    mean_of("kB", "bytes", scale=1e-3, digits=0),
    mean_of("edges", "edges", digits=0),
    mean_of("seconds", "seconds", digits=0),
]
PLOT = Plot("seconds.png", points, "seconds of condensation", "GCN on the test set, %", log_x=True)


BENCHMARK = Benchmark(
    prog="python -m benchmarks.graph",
    text="Condense graphs; compare the test accuracies of networks with baselines and published accuracies.\n"
    "DATA is cora (features normalised to sum 1), cora-words (binary features) or tolokers, with files below ROOT, or "
    "sbm-N, a generated graph of N nodes.",
    config=ExperimentConfig,
    methods=METHODS,
    measure=measure,
    axes={"nodes": Axis("35,70,140", "Numbers of synthetic nodes, separated by commas.")},
    values=lambda method, _, values: [None] if method == "whole graph" else values,
    columns=[
        *(percent_of(f"{name}, %", name) for name in GRAPH_NETWORKS),
        percent_of("by its own kernel, %", "kernel"),
        Column("published, %", published),
        *COSTS,
    ],
    about=_about,
    line=lambda r: f"{100 * statistics.fmean(r['gcn']):.1f} %, {r.get('seconds', 0):.0f} s",
    load=_load,
    plot=PLOT,
)

if __name__ == "__main__":
    sys.exit(BENCHMARK.run())
