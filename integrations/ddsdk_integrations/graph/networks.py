"""Networks: those of PyG that judge a graph, and students that sets of nodes and of graphs are matched under."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.functional import relu
from torch_geometric.nn import APPNP, ChebConv, GATConv, GCNConv, SAGEConv, SGConv
from torch_geometric.utils import add_remaining_self_loops

from ddsdk.foundation import require, require_count
from ddsdk.networks import Network, initialise
from ddsdk_integrations.graph.graph_sets import unpacked
from ddsdk_integrations.graph.propagation import dense_normalised

GRAPH_NETWORKS: Mapping[str, str] = {
    "gcn": "two graph convolutions",
    "sgc": "a linear model on propagated features (Wu et al., ICML 2019, arXiv:1902.07153)",
    "appnp": "a perceptron, then personalised PageRank (Gasteiger et al., ICLR 2019, arXiv:1810.05997)",
    "sage": "two GraphSAGE layers with means",
    "gat": "two layers of attention with one head",
    "cheb": "two Chebyshev convolutions of order 2",
    "mlp": "a perceptron that sees no edge",
}
"""Name of a network to its description."""


@final
class GraphNetwork(nn.Module):
    """A network of `GRAPH_NETWORKS`, with a ReLU between two layers; no dropout, so that nothing is random.

    Args:
        kind: Key of `GRAPH_NETWORKS`.
        features: Features of a node, D.
        classes: Number of classes K.
        width: Units of the hidden layer; SGC has none.
        hops: Propagations of SGC.
    """

    def __init__(self, kind: str, features: int, classes: int, width: int, hops: int) -> None:
        super().__init__()
        self.kind = kind
        if kind == "sgc":
            self.first = SGConv(features, classes, K=hops)
            return
        layer = {
            "gcn": GCNConv,
            "sage": SAGEConv,
            "gat": lambda into, out: GATConv(into, out, heads=1),
            "cheb": lambda into, out: ChebConv(into, out, K=2),
        }.get(kind, nn.Linear)
        self.first, self.second = layer(features, width), layer(width, classes)
        self.spread = APPNP(K=10, alpha=0.1)

    def forward(self, x: Tensor, edge_index: Tensor, edge_weight: Tensor | None = None) -> Tensor:
        """Return the logits of all nodes, (N, K).

        Args:
            x: Features, (N, D).
            edge_index: Source and target of each edge, (2, E), without loops.
            edge_weight: Weight of each edge, (E,); None for 1. GraphSAGE and GAT ignore weights.
        """
        edges: tuple[Tensor | None, ...] = (edge_index, edge_weight)
        logits: Tensor
        if self.kind == "sgc":
            logits = self.first(x, *edges)
            return logits
        if self.kind == "appnp":
            logits = self.spread(self.second(relu(self.first(x))), *edges)
            return logits
        if self.kind == "mlp":
            edges = ()
        elif self.kind in ("sage", "gat"):
            # A node belongs to its own neighbourhood: one without edges would train no weight of its neighbours.
            edges = (add_remaining_self_loops(edge_index, num_nodes=len(x))[0],)
        logits = self.second(relu(self.first(x, *edges)), *edges)
        return logits


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
    require_count("width", width)
    require_count("hops", hops)
    with torch.device("meta"):
        network = GraphNetwork(name, features, classes, width, hops)
    network = network.to_empty(device="cpu")
    with torch.no_grad():
        for p in network.parameters():
            if p.ndim < 2:
                p.zero_()
            else:
                bound = math.sqrt(6 / (p.shape[-1] + p.shape[-2]))
                p.uniform_(-bound, bound, generator=rng)
    return network


@final
@dataclass(frozen=True)
class StudentFactory:
    """A factory of networks, ``make_student(rng)``, which the provenance of a set records.

    Attributes:
        name: Name of the network.
        options: Arguments of `build`, JSON values.
        build: Function that builds the network.
    """

    name: str
    options: Mapping[str, int]
    build: Callable[..., Network]

    def __call__(self, rng: torch.Generator) -> Network:
        """Return a network whose weights come from `rng` alone."""
        with torch.device("meta"):
            network = self.build(**self.options)
        return initialise(network, rng)


def linear_student(features: int, classes: int) -> StudentFactory:
    """Return the factory of SGC on rows (B, 1, 1, D) that were propagated before: one linear layer."""
    return StudentFactory("linear", {"features": features, "classes": classes}, _linear)


def perceptron_student(features: int, classes: int, width: int) -> StudentFactory:
    """Return the factory of a GCN of two layers on rows (B, 1, 1, D) that were propagated before: a perceptron."""
    return StudentFactory("perceptron", {"features": features, "classes": classes, "width": width}, _perceptron)


def graph_student(tags: int, classes: int, *, width: int = 128, layers: int = 3) -> StudentFactory:
    """Return the factory of a GCN over packed graphs with mean pooling and a linear head.

    Args:
        tags: Number of tags T.
        classes: Number of classes K.
        width: Units of each layer.
        layers: Number of convolutions.
    """
    require_count("width", width)
    require_count("layers", layers)
    options = {"tags": tags, "classes": classes, "width": width, "layers": layers}
    return StudentFactory("dense-gcn", options, _dense_gcn)


@final
class DenseConvolutions(nn.Module):
    """Graph convolutions with ReLU on packed graphs with `tags` tags, and the mean over the nodes with features."""

    def __init__(self, tags: int, width: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise([tags] + [width] * layers))
        self._tags = tags

    def forward(self, images: Tensor) -> Tensor:
        """Return embeddings, (B, width), of packed graphs (B, 1, N, T + N)."""
        x, adjacency = unpacked(images, self._tags)
        there = (x.detach().abs().sum(2, keepdim=True) > 0).to(x)
        operator = dense_normalised(adjacency)
        for layer in self.layers:
            x = relu(operator @ layer(x))
        pooled: Tensor = (x * there).sum(1) / there.sum(1).clamp_min(1)
        return pooled


def _linear(features: int, classes: int) -> Network:
    return Network(nn.Sequential(nn.Flatten()), nn.Linear(features, classes))


def _perceptron(features: int, classes: int, width: int) -> Network:
    body = nn.Sequential(nn.Sequential(nn.Flatten(), nn.Linear(features, width), nn.ReLU()))
    return Network(body, nn.Linear(width, classes))


def _dense_gcn(tags: int, classes: int, width: int, layers: int) -> Network:
    return Network(nn.Sequential(DenseConvolutions(tags, width, layers)), nn.Linear(width, classes))
