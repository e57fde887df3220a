"""The neural tangent kernel of graph networks between real nodes and synthetic ones."""

from __future__ import annotations

from functools import lru_cache
from typing import final

import torch
from torch import Tensor
from torch.nn.functional import one_hot
from torch_geometric.data import Data

import ddsdk as dd
from ddsdk.data import Batch, choose
from ddsdk.foundation import require, require_count
from ddsdk.objectives import Compared
from ddsdk.training import Moments, Ridge, pieces, relu_layers, solve
from ddsdk_integrations.graph.data import Graph, Part
from ddsdk_integrations.graph.propagation import neighbours

_AT_ONCE = 64


@final
class LabelledNodes:
    """The labelled nodes of a part as their positions in the graph, for students that hold the graph.

    Args:
        part: Part of a graph.
        num_classes: Number of classes K.
    """

    def __init__(self, part: Part, num_classes: int) -> None:
        self._part, self.num_classes, self.device = part, num_classes, part.nodes.device

    def of_class(self, c: int, n: int, rng: torch.Generator) -> Batch:
        """Draw at most `n` nodes of class `c`: numbers (B,) int64, and label rows."""
        return self._batch(choose(torch.nonzero(self._part.labels == c).flatten(), n, rng))

    def mixed(self, n: int, rng: torch.Generator) -> Batch:
        """Draw at most `n` nodes of any class."""
        return self._batch(choose(torch.arange(len(self._part.nodes)), n, rng))

    def _batch(self, at: Tensor) -> Batch:
        return Batch(self._part.nodes[at], one_hot(self._part.labels[at], self.num_classes).float())


@final
class StructureKernel:
    """The structure-based neural tangent kernel between nodes of a graph and nodes without edges.

    The kernel of an infinitely wide network of `blocks` blocks; each multiplies by the normalised adjacency P, and has
    `layers` ReLU layers then: S <- P S P'^T, T <- P T P'^T, and the layers as `ddsdk.relu_layers` has them, from
    S = T = <x, x'>. On the side of the nodes without edges P' is the identity.

    Args:
        graph: Real graph.
        blocks: Number of blocks, 1 or 2, as the paper's settings have it: more would need the kernel within ever larger
            neighbourhoods.
        layers: Number of ReLU layers of each block, at least 1.

    Cost: B F multiplications of length D for B nodes with F neighbours, and once for each node the square of its
    degree; never a matrix over all nodes.

    References:
        Wang et al., "Fast Graph Condensation with Structure-based Neural Tangent Kernel", WWW 2024, arXiv:2310.11046.
        Du et al., "Graph Neural Tangent Kernel", NeurIPS 2019, arXiv:1905.13192.
    """

    def __init__(self, graph: Graph, *, blocks: int = 2, layers: int = 2) -> None:
        require(blocks in (1, 2), "blocks", "be 1 or 2", blocks)
        require_count("layers", layers)
        self._operator = graph.operator.double()
        self._blocks, self._layers = blocks, layers
        self._h = self._operator @ graph.x.double()
        self._diagonal = torch.full((len(graph.x),), torch.nan, dtype=torch.float64)

    def gram(self, x: Tensor) -> Tensor:
        """Return the kernel among nodes without edges, (M, M), of features (M, D) with graph to them."""
        x = x.double()
        own = x.square().sum(1)
        product = x @ x.T
        return relu_layers(Moments(product, product, own, own), self._blocks * self._layers).tangent

    def cross(self, nodes: Tensor, x: Tensor) -> Tensor:
        """Return the kernel between nodes of the graph and nodes without edges, (B, M), with graph to `x`.

        Args:
            nodes: Positions in the graph, (B,) int64.
            x: Features of the nodes without edges, (M, D).
        """
        x = x.double()
        own = x.square().sum(1)
        if self._blocks == 1:
            return self._first(nodes, x, own).tangent
        field, part = neighbours(self._operator, nodes)
        before = self._first(field, x, own)
        after = Moments(part @ before.covariance, part @ before.tangent, self._of_nodes(nodes), own)
        return relu_layers(after, self._layers).tangent

    def _first(self, nodes: Tensor, x: Tensor, own: Tensor) -> Moments:
        """Return what the first block makes of nodes of the graph and others: P S is (P X) X'^T."""
        h = self._h[nodes]
        product = h @ x.T
        return relu_layers(Moments(product, product, h.square().sum(1), own), self._layers)

    def _of_nodes(self, nodes: Tensor) -> Tensor:
        """Return the covariance of nodes with themselves at the second block, (B,); each is computed once."""
        missing = nodes[self._diagonal[nodes].isnan()]
        for piece in pieces(len(missing), _AT_ONCE):
            field, part = neighbours(self._operator, missing[piece])
            h = self._h[field]
            product, own = h @ h.T, h.square().sum(1)
            inside = relu_layers(Moments(product, product, own, own), self._layers).covariance
            self._diagonal[missing[piece]] = ((part @ inside) * part.to_dense()).sum(1)
        return self._diagonal[nodes]


def by_structure(student: StructureKernel, images: Tensor, new: Tensor) -> Compared:
    """Compare nodes of a set, (M, 1, 1, D), with nodes of the real graph, (B,) int64: for `FitAndTest`."""
    x = images.flatten(1)
    return Compared(student.gram(x), student.cross(new, x))


@lru_cache(maxsize=4)
def structure_kernel(graph: Graph, *, blocks: int, layers: int) -> StructureKernel:
    """Return the kernel of a graph; the last few are kept, because what they hold of nodes takes a while to compute."""
    return StructureKernel(graph, blocks=blocks, layers=layers)


@torch.no_grad()
def kernel_scores(data: Data, part: Part, evaluation: dd.Evaluation) -> Tensor:
    """Return the predictions of ridge regression on nodes without edges for the nodes of a part, (L, K) float64.

    Args:
        data: Features x (M, D) and rows of labels y_rows (M, K).
        part: Part of the real graph.
        evaluation: Protocol whose `network_options` hold blocks, layers, rule and ridge.
    """
    require(evaluation.network == "structure-ntk", "kernel", "be 'structure-ntk'", evaluation.network)
    edges = data.edge_index.shape[1]
    require(edges == 0, "set", "have no edges for this kernel", edges)
    options = dict(evaluation.network_options)
    ridge = Ridge(rule=options.pop("rule", "trace"), strength=options.pop("ridge", 1.0))
    kernel, x = structure_kernel(part.graph, **options), data.x
    values = solve(kernel.gram(x), data.y_rows, ridge).values
    return torch.cat([kernel.cross(part.nodes[piece], x) @ values for piece in pieces(len(part.nodes), 1000)])
