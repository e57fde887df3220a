"""What a condensed graph must beat: real nodes that were chosen, their propagated features, class means, all nodes."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from torch import Tensor
from torch_geometric.utils import subgraph

import ddsdk as dd
from ddsdk.data import herding, k_center, k_means_nearest
from ddsdk.foundation import derive, require, require_count, require_rng
from ddsdk.synthetic import hard_labels
from ddsdk_integrations.graph.data import GraphData
from ddsdk_integrations.graph.judge import GRAPH_PROTOCOL, held_out, trained_on_part
from ddsdk_integrations.graph.recipe import allotted, exported, start_features
from ddsdk_integrations.graph.structure import SyntheticNodes

__all__ = ["ChosenNodes", "PropagatedNodes", "whole_graph"]

_CHOICES: Mapping[str, Callable[[Tensor, int, torch.Generator], Tensor]] = {
    "random": lambda x, n, rng: torch.randperm(len(x), generator=rng)[:n],
    "herding": lambda x, n, rng: herding(x, n),  # noqa: ARG005
    "k-center": lambda x, n, rng: k_center(x, n),  # noqa: ARG005
    "k-means": k_means_nearest,
}


@final
@dataclass(frozen=True, kw_only=True)
class ChosenNodes:
    """Real training nodes with the edges among them.

    Attributes:
        name: What tables call the baseline.
        choice: ``"random"``, or by propagated features ``"herding"``, ``"k-center"`` or ``"k-means"``.
        nodes: How many.
        hops: Of the features that are looked at.
    """

    name: ClassVar[str] = "nodes"
    choice: Literal["random", "herding", "k-center", "k-means"] = "random"
    nodes: int = 70
    hops: int = 2

    def __post_init__(self) -> None:
        require(self.choice in _CHOICES, "choice", f"be one of {list(_CHOICES)}", self.choice)
        require_count("nodes", self.nodes)

    def __call__(self, graph: GraphData, *, rng: torch.Generator) -> dd.Distilled:
        """Return the chosen nodes as an artefact; a class with too few gives all that it has.

        Raises:
            ValueError: If there are fewer nodes than classes.
        """
        require_rng(rng)
        began = time.perf_counter()
        wanted = torch.bincount(allotted(graph.class_sizes, self.nodes), minlength=graph.num_classes)
        x, picks = graph.propagated(self.hops), []
        for c, n in enumerate(wanted.tolist()):
            mine = torch.nonzero(graph.train.labels == c).flatten()
            enough = n < len(mine)
            chosen = _CHOICES[self.choice](x[mine], n, derive(rng, c)) if enough else slice(None)
            picks.append(mine[chosen])
        at = torch.cat(picks)
        graph_seen, nodes = graph.train.graph, graph.train.nodes[at]
        classes = graph.train.labels[at]
        labels = hard_labels(classes, graph.num_classes)
        syn = dd.SyntheticSet(SyntheticNodes(graph_seen.x[nodes]), labels, classes, graph.num_classes)
        seconds = time.perf_counter() - began
        distilled = exported(self, syn, graph, evaluation=GRAPH_PROTOCOL, rng=rng, seconds=seconds)
        inside = nodes.sort().values
        index, _ = subgraph(inside, graph_seen.edge_index, relabel_nodes=True, num_nodes=len(graph_seen.x))
        if not index.shape[1]:
            return distilled
        # `subgraph` numbers nodes by their place in the graph, the set by its classes.
        order = nodes.argsort()
        return dataclasses.replace(distilled, edge_index=order[index], edge_weight=torch.ones(index.shape[1]))


@final
@dataclass(frozen=True, kw_only=True)
class PropagatedNodes:
    """Propagated features without edges: those of random training nodes, or the means of clusters of each class.

    The second is what GCPA computes before it trains anything (ICML 2025): one message passing and class means.

    Attributes:
        name: What tables call the baseline.
        means: Whether means of clusters are taken; random nodes otherwise.
        nodes: How many.
        hops: Of the propagation.
    """

    name: ClassVar[str] = "propagated"
    means: bool = False
    nodes: int = 70
    hops: int = 2

    def __call__(self, graph: GraphData, *, rng: torch.Generator) -> dd.Distilled:
        """Return them as an artefact."""
        require_rng(rng)
        began = time.perf_counter()
        classes = allotted(graph.class_sizes, self.nodes)
        x = start_features(graph, classes, "means" if self.means else "propagated", self.hops, rng)
        labels = hard_labels(classes, graph.num_classes)
        syn = dd.SyntheticSet(SyntheticNodes(x), labels, classes, graph.num_classes)
        seconds = time.perf_counter() - began
        return exported(self, syn, graph, evaluation=GRAPH_PROTOCOL, rng=rng, seconds=seconds)


def whole_graph(graph: GraphData, evaluation: dd.Evaluation, *, rng: torch.Generator) -> list[float]:
    """Return what networks reach on the test nodes that train on the training nodes of the real graph, in 0..1.

    Args:
        graph: The real graph.
        evaluation: As for condensed graphs.
        rng: Network i derives its weights from it.
    """
    keys = (derive(rng, "network", i) for i in range(evaluation.networks))
    return [held_out(trained_on_part(graph, evaluation, key), graph, graph.test) for key in keys]
