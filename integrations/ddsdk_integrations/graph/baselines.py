"""Baselines of a condensed graph: chosen real nodes, their propagated features, and class means."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from torch import Tensor
from torch_geometric.utils import subgraph

import ddsdk as dd
from ddsdk.data import herding, k_center, k_means_nearest
from ddsdk.foundation import derive
from ddsdk.running import DirectMethod
from ddsdk.students import MakeStudent
from ddsdk.synthetic import hard_labels
from ddsdk_integrations.graph.data import GraphData
from ddsdk_integrations.graph.recipe import NodeMethod, allotted
from ddsdk_integrations.graph.structure import KeptEdges, SyntheticNodes

_CHOICES: Mapping[str, Callable[[Tensor, int, torch.Generator], Tensor]] = {
    "random": lambda x, n, rng: torch.randperm(len(x), generator=rng)[:n],
    "herding": lambda x, n, rng: herding(x, n),  # noqa: ARG005
    "k-center": lambda x, n, rng: k_center(x, n),  # noqa: ARG005
    "k-means": k_means_nearest,
}


@final
@dataclass(frozen=True, kw_only=True)
class ChosenNodes(NodeMethod, DirectMethod[GraphData]):
    """Real training nodes with the edges among them; a class with too few gives all that it has.

    Attributes:
        choice: ``"random"``, or by propagated features ``"herding"``, ``"k-center"`` or ``"k-means"``.
    """

    name: ClassVar[str] = "nodes"
    choice: Literal["random", "herding", "k-center", "k-means"] = "random"

    def make(self, graph: GraphData, *, make_student: MakeStudent, rng: torch.Generator) -> dd.SyntheticSet:  # noqa: ARG002
        """Return the chosen nodes, class by class."""
        wanted = torch.bincount(allotted(graph.class_sizes, self.nodes), minlength=graph.num_classes)
        x, picks = graph.propagated(self.hops), []
        for c, n in enumerate(wanted.tolist()):
            mine = torch.nonzero(graph.train.labels == c).flatten()
            picks.append(mine[_CHOICES[self.choice](x[mine], n, derive(rng, c))] if n < len(mine) else mine)
        at = torch.cat(picks)
        seen, nodes, classes = graph.train.graph, graph.train.nodes[at], graph.train.labels[at]
        inside = nodes.sort().values
        index, _ = subgraph(inside, seen.edge_index, relabel_nodes=True, num_nodes=len(seen.x))
        # `subgraph` numbers nodes by their place in the graph, the set by its classes.
        kept = KeptEdges(nodes.argsort()[index])
        items = SyntheticNodes(seen.x[nodes], kept, hops=self.hops)
        return dd.SyntheticSet(items, hard_labels(classes, graph.num_classes), classes, graph.num_classes)


@final
@dataclass(frozen=True, kw_only=True)
class PropagatedNodes(NodeMethod, DirectMethod[GraphData]):
    """Propagated features without edges: those of random training nodes, or the means of clusters of each class.

    The second is what GCPA computes before it trains anything (ICML 2025): one message passing and class means.

    Attributes:
        means: Whether means of clusters are taken; random nodes otherwise.
    """

    name: ClassVar[str] = "propagated"
    means: bool = False

    def make(self, graph: GraphData, *, make_student: MakeStudent, rng: torch.Generator) -> dd.SyntheticSet:  # noqa: ARG002
        """Return the nodes, class by class."""
        return self.synthetic(graph, "means" if self.means else "propagated", rng=rng)
