"""Structure-based neural tangent kernel between real nodes and synthetic nodes without edges."""

from __future__ import annotations

from functools import lru_cache
from typing import final

import torch
from torch import Tensor
from torch.nn.functional import one_hot
from torch_geometric.data import Data

import ddsdk as dd
from ddsdk.data import Batch, sample_indices
from ddsdk.foundation import require, require_count
from ddsdk.objectives import GramMatrices
from ddsdk.training import Moments, Ridge, pieces, relu_layers, solve
from ddsdk_integrations.graph.data import Graph, NodeSplit
from ddsdk_integrations.graph.propagation import neighbours

_AT_ONCE = 64


@final
class LabelledNodes:
    """The labelled nodes of a split as real data, in which an item is the position of a node in the graph.

    Args:
        part: Split of the real graph.
        num_classes: Number of classes K.
    """

    def __init__(self, part: NodeSplit, num_classes: int) -> None:
        self._part, self.num_classes, self.device = part, num_classes, part.nodes.device

    def of_class(self, c: int, n: int, rng: torch.Generator) -> Batch:
        """Return at most `n` random nodes of class `c`: positions (B,) int64, and one-hot labels (B, K)."""
        return self._batch(sample_indices(torch.nonzero(self._part.labels == c).flatten(), n, rng))

    def mixed(self, n: int, rng: torch.Generator) -> Batch:
        """Return at most `n` random nodes of any class."""
        return self._batch(sample_indices(torch.arange(len(self._part.nodes)), n, rng))

    def _batch(self, index: Tensor) -> Batch:
        return Batch(self._part.nodes[index], one_hot(self._part.labels[index], self.num_classes).float())


@final
class StructureKernel:
    """The structure-based neural tangent kernel between nodes of a graph and nodes without edges.

    It is the kernel of an infinitely wide graph network. Each of its `blocks` blocks is a propagation with the
    normalised adjacency P, S <- P S P'^T and T <- P T P'^T, followed by `layers` ReLU layers as in
    `ddsdk.training.relu_layers`. The start is S = T = <x, x'>. For the nodes without edges P' is the identity.

    Args:
        graph: Real graph without its splits.
        blocks: Number of blocks, 1 or 2 as in the paper. More blocks would need the kernel within ever larger
            neighbourhoods.
        layers: ReLU layers of each block, at least 1.

    Cost: B F multiplications of length D for B nodes with F neighbours, and once for each node the square of its
    degree. No matrix over all nodes is built.

    Examples:
        >>> import torch
        >>> from ddsdk_integrations.graph import StructureKernel, stochastic_blocks
        >>> kernel = StructureKernel(stochastic_blocks(200, seed=1).train.graph)
        >>> kernel.cross(torch.tensor([3, 5]), torch.rand(8, 32)).shape
        torch.Size([2, 8])

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
        self._diagonal = self._h.new_full((len(graph.x),), torch.nan)

    def gram(self, x: Tensor) -> Tensor:
        """Return the kernel among nodes without edges, (M, M) float64, differentiable in their features (M, D)."""
        x = x.double()
        norms = x.square().sum(1)
        product = x @ x.T
        return relu_layers(Moments(product, product, norms, norms), self._blocks * self._layers).tangent

    def cross(self, nodes: Tensor, x: Tensor) -> Tensor:
        """Return the kernel between nodes of the graph and nodes without edges, (B, M), differentiable in `x`.

        Args:
            nodes: Positions in the graph, (B,) int64.
            x: Features of the nodes without edges, (M, D).
        """
        x = x.double()
        norms = x.square().sum(1)
        if self._blocks == 1:
            return self._first_block(nodes, x, norms).tangent
        field, part = neighbours(self._operator, nodes)
        first = self._first_block(field, x, norms)
        covariance, tangent = part @ first.covariance, part @ first.tangent
        return relu_layers(Moments(covariance, tangent, self._diagonal_of(nodes), norms), self._layers).tangent

    def _first_block(self, nodes: Tensor, x: Tensor, norms: Tensor) -> Moments:
        # The propagated kernel P S is (P X) X'^T, a product of propagated features.
        h = self._h[nodes]
        product = h @ x.T
        return relu_layers(Moments(product, product, h.square().sum(1), norms), self._layers)

    def _diagonal_of(self, nodes: Tensor) -> Tensor:
        """Return the variance of nodes before the second block's layers, (B,); each value is computed once."""
        missing = nodes[self._diagonal[nodes].isnan()]
        for piece in pieces(len(missing), _AT_ONCE):
            field, part = neighbours(self._operator, missing[piece])
            h = self._h[field]
            product, norms = h @ h.T, h.square().sum(1)
            covariance = relu_layers(Moments(product, product, norms, norms), self._layers).covariance
            # The diagonal of P S P^T, without its other entries.
            self._diagonal[missing[piece]] = ((part @ covariance) * part.to_dense()).sum(1)
        return self._diagonal[nodes]


def structure_gram_matrices(student: StructureKernel, images: Tensor, new: Tensor) -> GramMatrices:
    """Return the kernel of synthetic nodes, (M, 1, 1, D), and of real nodes, (B,) int64, for `FitAndTest`."""
    x = images.flatten(1)
    return GramMatrices(student.gram(x), student.cross(new, x))


@lru_cache(maxsize=4)
def structure_kernel(graph: Graph, *, blocks: int, layers: int) -> StructureKernel:
    """Return the kernel of a graph, from a cache of four: a kernel stores values of nodes that are slow to compute."""
    return StructureKernel(graph, blocks=blocks, layers=layers)


@torch.no_grad()
def kernel_scores(data: Data, part: NodeSplit, protocol: dd.TrainingProtocol) -> Tensor:
    """Return predictions of kernel ridge regression on a condensed graph for the nodes of a split, (L, K) float64.

    Args:
        data: Condensed graph with features x (M, D) and labels y_rows (M, K), without edges.
        part: Split of the real graph.
        protocol: Kernel protocol, whose `network_options` hold blocks, layers, rule and ridge.
    """
    require(protocol.network == "structure-ntk", "kernel", "be 'structure-ntk'", protocol.network)
    edges = data.edge_index.shape[1]
    require(edges == 0, "set", "have no edges for this kernel", edges)
    options = dict(protocol.network_options)
    ridge = Ridge(rule=options.pop("rule", "trace"), strength=options.pop("ridge", 1.0))
    kernel, x = structure_kernel(part.graph, **options), data.x
    values = solve(kernel.gram(x), data.y_rows, ridge).values
    return torch.cat([kernel.cross(part.nodes[piece], x) @ values for piece in pieces(len(part.nodes), 1000)])
