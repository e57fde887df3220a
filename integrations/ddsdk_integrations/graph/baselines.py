"""Baselines of node condensation: coresets of real nodes, propagated features and cluster means."""

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
from ddsdk_integrations.graph.recipe import NodeMethod, node_classes
from ddsdk_integrations.graph.structure import RealEdges, SyntheticNodes

_CHOICES: Mapping[str, Callable[[Tensor, int, torch.Generator], Tensor]] = {
    "random": lambda x, n, rng: torch.randperm(len(x), generator=rng)[:n],
    "herding": lambda x, n, rng: herding(x, n),  # noqa: ARG005
    "k-center": lambda x, n, rng: k_center(x, n),  # noqa: ARG005
    "k-means": k_means_nearest,
}


@final
@dataclass(frozen=True, kw_only=True)
class CoresetNodes(NodeMethod, DirectMethod[GraphData]):
    """A coreset of real training nodes with the edges among them.

    A class with fewer training nodes than its share contributes all of them.

    Attributes:
        choice: Rule of the selection: ``"random"``, or on propagated features ``"herding"``, ``"k-center"`` or
            ``"k-means"``.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.graph import CoresetNodes, stochastic_blocks
        >>> coreset = ddsdk.distill(CoresetNodes(nodes=8, choice="herding"), stochastic_blocks(400))
        >>> len(coreset)
        8
    """

    name: ClassVar[str] = "nodes"
    choice: Literal["random", "herding", "k-center", "k-means"] = "random"

    def make(self, graph: GraphData, *, make_student: MakeStudent, rng: torch.Generator) -> dd.SyntheticSet:  # noqa: ARG002
        """Return the selected nodes, sorted by class."""
        counts = torch.bincount(node_classes(graph.class_sizes, self.nodes), minlength=graph.num_classes)
        x, picks = graph.propagated(self.hops), []
        for c, n in enumerate(counts.tolist()):
            of_class = torch.nonzero(graph.train.labels == c).flatten()
            enough = n < len(of_class)
            picks.append(of_class[_CHOICES[self.choice](x[of_class], n, derive(rng, c))] if enough else of_class)
        chosen, split = torch.cat(picks), graph.train
        nodes, classes = split.nodes[chosen], split.labels[chosen]
        ascending = nodes.sort().values
        index, _ = subgraph(ascending, split.graph.edge_index, relabel_nodes=True, num_nodes=len(split.graph.x))
        # `subgraph` numbers nodes by their position in the graph; nodes of the set are sorted by class.
        edges = RealEdges(nodes.argsort()[index])
        items = SyntheticNodes(split.graph.x[nodes], edges, hops=self.hops)
        return dd.SyntheticSet(items, hard_labels(classes, graph.num_classes), classes, graph.num_classes)


@final
@dataclass(frozen=True, kw_only=True)
class PropagatedNodes(NodeMethod, DirectMethod[GraphData]):
    """Propagated features without edges: of random training nodes, or means of clusters within each class.

    The cluster means are the precomputation of GCPA (ICML 2025): one message passing and class means, before any
    training.

    Attributes:
        means: Whether nodes are means of clusters; otherwise they are random training nodes.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.graph import PropagatedNodes, stochastic_blocks
        >>> ddsdk.distill(PropagatedNodes(nodes=8, means=True), stochastic_blocks(400)).images.shape
        torch.Size([8, 1, 1, 32])
    """

    name: ClassVar[str] = "propagated"
    means: bool = False

    def make(self, graph: GraphData, *, make_student: MakeStudent, rng: torch.Generator) -> dd.SyntheticSet:  # noqa: ARG002
        """Return the nodes, sorted by class."""
        return self.synthetic(graph, "means" if self.means else "propagated", rng=rng)
