"""Graph networks of PyG for the evaluation, and student networks for matching."""

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
from ddsdk_integrations.graph.propagation import dense_normalised_adjacency

GRAPH_NETWORKS: Mapping[str, str] = {
    "gcn": "two graph convolutions",
    "sgc": "a linear model on propagated features (Wu et al., ICML 2019, arXiv:1902.07153)",
    "appnp": "a perceptron, then personalised PageRank (Gasteiger et al., ICLR 2019, arXiv:1810.05997)",
    "sage": "two GraphSAGE layers with means",
    "gat": "two layers of attention with one head",
    "cheb": "two Chebyshev convolutions of order 2",
    "mlp": "a perceptron on the features, without edges",
}
"""Descriptions of the networks by name."""


@final
class GraphNetwork(nn.Module):
    """A network of `GRAPH_NETWORKS`: two layers with a ReLU between them, or SGC; without dropout, so deterministic.

    Args:
        kind: Name of the network, a key of `GRAPH_NETWORKS`.
        features: Features of a node, D.
        classes: Number of classes K.
        width: Units of the hidden layer; SGC has none.
        hops: Propagations in SGC; other networks ignore it.
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
            x: Features of all nodes, (N, D).
            edge_index: Source and target of each edge, (2, E) int64, without self-loops.
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
            # With self-loops, a set without edges also trains the weights that apply to neighbours.
            edges = (add_remaining_self_loops(edge_index, num_nodes=len(x))[0],)
        logits = self.second(relu(self.first(x, *edges)), *edges)
        return logits


def graph_network(
    name: str, features: int, classes: int, rng: torch.Generator, *, width: int = 256, hops: int = 2
) -> nn.Module:
    """Return a graph network with Glorot-uniform weight matrices and zero biases.

    Args:
        name: Name of the network, a key of `GRAPH_NETWORKS`.
        features: Features of a node, D.
        classes: Number of classes K.
        rng: CPU generator, the only source of the weights.
        width: Units of the hidden layer.
        hops: Propagations in SGC, at least 1.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.graph import graph_network, stochastic_blocks
        >>> graph = stochastic_blocks(200, seed=1).train.graph
        >>> graph_network("gcn", 32, 4, ddsdk.generator(0))(graph.x, graph.edge_index).shape
        torch.Size([200, 4])
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
    """A factory of student networks, ``make_student(rng)``; provenance records its name and options.

    Attributes:
        name: Name of the network in the provenance.
        options: Keyword arguments of `build`, as JSON values.
        build: Function that builds the network from the options.
    """

    name: str
    options: Mapping[str, int]
    build: Callable[..., Network]

    def __call__(self, rng: torch.Generator) -> Network:
        """Return a network with random weights from `rng`."""
        with torch.device("meta"):
            network = self.build(**self.options)
        return initialise(network, rng)


def linear_student(features: int, classes: int) -> StudentFactory:
    """Return the factory of SGC: one linear layer on propagated features, (B, 1, 1, D)."""
    return StudentFactory("linear", {"features": features, "classes": classes}, _linear)


def perceptron_student(features: int, classes: int, width: int) -> StudentFactory:
    """Return the factory of a perceptron with one hidden layer on propagated features, (B, 1, 1, D)."""
    return StudentFactory("perceptron", {"features": features, "classes": classes, "width": width}, _perceptron)


def graph_student(tags: int, classes: int, *, width: int = 128, layers: int = 3) -> StudentFactory:
    """Return the factory of a GCN on packed graphs, with mean pooling and a linear head.

    Args:
        tags: Features of a node, the number of tags T.
        classes: Number of classes K.
        width: Units of each convolution.
        layers: Number of graph convolutions.

    Examples:
        >>> import ddsdk, torch
        >>> from ddsdk_integrations.graph import graph_student
        >>> graph_student(3, 2, width=8)(ddsdk.generator(0))(torch.rand(5, 1, 6, 3 + 6)).shape
        torch.Size([5, 2])
    """
    require_count("width", width)
    require_count("layers", layers)
    options = {"tags": tags, "classes": classes, "width": width, "layers": layers}
    return StudentFactory("dense-gcn", options, _dense_gcn)


@final
class DenseConvolutions(nn.Module):
    """Graph convolutions with ReLU on packed graphs, and mean pooling over the nodes with features."""

    def __init__(self, tags: int, width: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise([tags] + [width] * layers))
        self._tags = tags

    def forward(self, images: Tensor) -> Tensor:
        """Return embeddings, (B, width), of packed graphs (B, 1, N, T + N)."""
        x, adjacency = unpacked(images, self._tags)
        # Padding has no features.
        is_node = (x.detach().abs().sum(2, keepdim=True) > 0).to(x)
        operator = dense_normalised_adjacency(adjacency)
        for layer in self.layers:
            x = relu(operator @ layer(x))
        pooled: Tensor = (x * is_node).sum(1) / is_node.sum(1).clamp_min(1)
        return pooled


def _linear(features: int, classes: int) -> Network:
    return Network(nn.Sequential(nn.Flatten()), nn.Linear(features, classes))


def _perceptron(features: int, classes: int, width: int) -> Network:
    body = nn.Sequential(nn.Sequential(nn.Flatten(), nn.Linear(features, width), nn.ReLU()))
    return Network(body, nn.Linear(width, classes))


def _dense_gcn(tags: int, classes: int, width: int, layers: int) -> Network:
    return Network(nn.Sequential(DenseConvolutions(tags, width, layers)), nn.Linear(width, classes))
