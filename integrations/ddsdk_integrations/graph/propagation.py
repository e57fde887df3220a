"""Normalised adjacency of graph convolutions: sparse for real graphs, dense for condensed ones."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor
from torch_geometric.nn.conv.gcn_conv import gcn_norm

from ddsdk.foundation import require_count


def normalised_adjacency(edge_index: Tensor, num_nodes: int, edge_weight: Tensor | None = None) -> Tensor:
    """Return D^-1/2 (A + I) D^-1/2 as a sparse CSR matrix, (N, N), by PyG's own normalisation.

    A[target, source] is the weight of an edge, and D holds the row sums of A + I. So a product with features sends
    messages from source to target. The row of a node without edges is that of the identity.

    Args:
        edge_index: Source and target of each edge, (2, E) int64.
        num_nodes: Number of nodes N.
        edge_weight: Weight of each edge, (E,); None for 1.

    Examples:
        >>> import torch
        >>> from ddsdk_integrations.graph import normalised_adjacency
        >>> normalised_adjacency(torch.tensor([[0, 1], [1, 0]]), num_nodes=3).to_dense()[2].tolist()
        [0.0, 0.0, 1.0]

    References:
        Kipf and Welling, "Semi-Supervised Classification with Graph Convolutional Networks", ICLR 2017,
        arXiv:1609.02907.
    """
    index, weight = gcn_norm(edge_index, edge_weight, num_nodes, dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse", category=UserWarning)
        # PyG gives (source, target); rows of the matrix are targets.
        return torch.sparse_coo_tensor(index.flip(0), weight, (num_nodes, num_nodes)).to_sparse_csr()


def dense_normalised_adjacency(adjacency: Tensor) -> Tensor:
    """Return D^-1/2 (A + I) D^-1/2 of dense matrices without self-loops, (..., M, M), differentiable.

    Args:
        adjacency: Non-negative weights A[target, source] with a zero diagonal, (..., M, M).

    Examples:
        >>> import torch
        >>> from ddsdk_integrations.graph import dense_normalised_adjacency
        >>> dense_normalised_adjacency(torch.zeros(2, 2)).tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """
    looped = adjacency + torch.eye(adjacency.shape[-1], dtype=adjacency.dtype, device=adjacency.device)
    scale = looped.sum(-1).rsqrt()
    return scale[..., :, None] * looped * scale[..., None, :]


def propagated(operator: Tensor, x: Tensor, hops: int) -> Tensor:
    """Return operator^hops x, the features of all nodes after message passing without weights.

    Args:
        operator: Normalised adjacency, (N, N), sparse or dense.
        x: Features of all nodes, (N, D).
        hops: Number of multiplications; 0 returns `x`.

    Cost: hops x D multiplications for each edge; memory for two matrices of the size of `x`.

    Examples:
        >>> from ddsdk_integrations.graph import propagated, stochastic_blocks
        >>> graph = stochastic_blocks(200, seed=1).train.graph
        >>> propagated(graph.operator, graph.x, hops=2).shape
        torch.Size([200, 32])
    """
    require_count("hops", hops, least=0)
    for _ in range(hops):
        x = operator @ x
    return x


def neighbours(operator: Tensor, nodes: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows of a sparse operator at `nodes`, without the columns in which all these rows are zero.

    Args:
        operator: Sparse CSR matrix, (N, N).
        nodes: Positions of the rows, (B,) int64.

    Returns:
        The columns with a non-zero entry, (F,) int64, ascending, and the sparse COO matrix ``part``, (B, F), with
        ``operator[nodes][:, columns] = part``.
    """
    start, stop = operator.crow_indices()[nodes], operator.crow_indices()[nodes + 1]
    count = stop - start
    row = torch.repeat_interleave(torch.arange(len(nodes), device=nodes.device), count)
    # Entry i of the result is entry i + offset of the operator; the offset is constant within a row.
    offset = torch.repeat_interleave(start - (count.cumsum(0) - count), count)
    entries = offset + torch.arange(len(row), device=nodes.device)
    columns, column = torch.unique(operator.col_indices()[entries], return_inverse=True)
    values = operator.values()[entries]
    return columns, torch.sparse_coo_tensor(torch.stack([row, column]), values, (len(nodes), len(columns)))
