"""Graph networks of PyG by name, with weights from an explicit generator."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.functional import relu
from torch_geometric.nn import APPNP, ChebConv, GATConv, GCNConv, SAGEConv, SGConv
from torch_geometric.utils import add_remaining_self_loops

from ddsdk.foundation import require, require_count


@final
class GraphNetwork(nn.Module):
    """Two layers of one kind of convolution with a ReLU between them; no dropout, so that nothing is random.

    Args:
        kind: Key of `GRAPH_NETWORKS`.
        features: Features of a node, D.
        classes: Number of classes K.
        width: Units of the hidden layer.
    """

    def __init__(self, kind: str, features: int, classes: int, width: int) -> None:
        super().__init__()
        build = {
            "gcn": GCNConv,
            "sage": SAGEConv,
            "gat": lambda into, out: GATConv(into, out, heads=1),
            "cheb": lambda into, out: ChebConv(into, out, K=2),
            "mlp": nn.Linear,
        }[kind]
        self.kind = kind
        self.first, self.second = build(features, width), build(width, classes)

    def forward(self, x: Tensor, edge_index: Tensor, edge_weight: Tensor | None = None) -> Tensor:
        """Return the logits of all nodes, (N, K).

        Args:
            x: Features, (N, D).
            edge_index: Source and target of each edge, (2, E), without loops.
            edge_weight: Weight of each edge, (E,); None for 1. GraphSAGE and GAT ignore weights.
        """
        edges: tuple[Tensor | None, ...] = (edge_index, edge_weight)
        if self.kind == "mlp":
            edges = ()
        elif self.kind in ("sage", "gat"):
            # A node belongs to its own neighbourhood: one without edges would train no weight of its neighbours.
            edges = (add_remaining_self_loops(edge_index, num_nodes=len(x))[0],)
        logits: Tensor = self.second(relu(self.first(x, *edges)), *edges)
        return logits


@final
class SGC(nn.Module):
    """A linear model on features after `hops` propagations (Wu et al., ICML 2019, arXiv:1902.07153)."""

    def __init__(self, features: int, classes: int, hops: int) -> None:
        super().__init__()
        self.layer = SGConv(features, classes, K=hops)

    def forward(self, x: Tensor, edge_index: Tensor, edge_weight: Tensor | None = None) -> Tensor:
        """Return the logits of all nodes, (N, K)."""
        logits: Tensor = self.layer(x, edge_index, edge_weight)
        return logits


@final
class PersonalisedPropagation(nn.Module):
    """APPNP: a perceptron, and personalised PageRank on its logits (Gasteiger et al., ICLR 2019, arXiv:1810.05997)."""

    def __init__(self, features: int, classes: int, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(features, width), nn.Linear(width, classes)
        self.spread = APPNP(K=10, alpha=0.1)

    def forward(self, x: Tensor, edge_index: Tensor, edge_weight: Tensor | None = None) -> Tensor:
        """Return the logits of all nodes, (N, K)."""
        logits: Tensor = self.spread(self.second(relu(self.first(x))), edge_index, edge_weight)
        return logits


GRAPH_NETWORKS: Mapping[str, str] = {
    "gcn": "two graph convolutions",
    "sgc": "a linear model on propagated features",
    "appnp": "a perceptron, then personalised PageRank",
    "sage": "two GraphSAGE layers with means",
    "gat": "two layers of attention with one head",
    "cheb": "two Chebyshev convolutions of order 2",
    "mlp": "a perceptron that sees no edge",
}
"""Name of a network to its description."""


def graph_network(
    name: str, features: int, classes: int, rng: torch.Generator, *, width: int = 256, hops: int = 2
) -> nn.Module:
    """Return a network whose weights come from `rng` alone: Glorot-uniform matrices, and biases of 0.

    Args:
        name: Key of `GRAPH_NETWORKS`.
        features: Features of a node, D.
        classes: Number of classes K.
        rng: CPU generator.
        width: Units of the hidden layer.
        hops: Propagations of SGC.

    Raises:
        ValueError: If the name is unknown or a number is out of range.
    """
    require(name in GRAPH_NETWORKS, "network", f"be one of {', '.join(GRAPH_NETWORKS)}", name)
    for word, value in (("width", width), ("hops", hops)):
        require_count(word, value)
    with torch.device("meta"):
        network: nn.Module
        if name == "sgc":
            network = SGC(features, classes, hops)
        elif name == "appnp":
            network = PersonalisedPropagation(features, classes, width)
        else:
            network = GraphNetwork(name, features, classes, width)
    network = network.to_empty(device="cpu")
    with torch.no_grad():
        for p in network.parameters():
            _draw(p, rng)
    return network


def _draw(parameter: Tensor, rng: torch.Generator) -> None:
    if parameter.ndim < 2:
        parameter.zero_()
        return
    bound = math.sqrt(6 / (parameter.shape[-1] + parameter.shape[-2]))
    parameter.uniform_(-bound, bound, generator=rng)
