"""The normalised adjacency of graph convolutions, sparse for real graphs and dense for small ones."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor
from torch_geometric.nn.conv.gcn_conv import gcn_norm

from ddsdk.foundation import require_count


def normalised(edge_index: Tensor, num_nodes: int, edge_weight: Tensor | None = None) -> Tensor:
    """Return D^-1/2 (A + I) D^-1/2 as a sparse CSR matrix, (N, N), by PyG's own normalisation.

    A has the weight of an edge in the row of its target and the column of its source, and D the row sums of A + I: a
    product with features sends messages from source to target.

    Args:
        edge_index: Source and target of each edge, (2, E).
        num_nodes: Number of nodes N. A node without edges keeps itself alone.
        edge_weight: Weight of each edge, (E,); None for 1.

    References:
        Kipf and Welling, "Semi-Supervised Classification with Graph Convolutional Networks", ICLR 2017,
        arXiv:1609.02907.
    """
    index, weight = gcn_norm(edge_index, edge_weight, num_nodes, dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse", category=UserWarning)
        return torch.sparse_coo_tensor(index.flip(0), weight, (num_nodes, num_nodes)).to_sparse_csr()


def dense_normalised(adjacency: Tensor) -> Tensor:
    """Return D^-1/2 (A + I) D^-1/2 of dense matrices without loops, (..., M, M), with graph to them.

    Args:
        adjacency: Non-negative weights with zeros on the diagonal, in the row of the target.
    """
    looped = adjacency + torch.eye(adjacency.shape[-1], dtype=adjacency.dtype, device=adjacency.device)
    scale = looped.sum(-1).rsqrt()
    return scale[..., :, None] * looped * scale[..., None, :]


def propagated(operator: Tensor, x: Tensor, hops: int) -> Tensor:
    """Return operator^hops x.

    Args:
        operator: Operator, (N, N), sparse or dense.
        x: Features, (N, D).
        hops: Number of multiplications; 0 returns `x`.

    Cost: hops x D multiplications for each edge; memory for two matrices like `x`.
    """
    require_count("hops", hops, least=0)
    for _ in range(hops):
        x = operator @ x
    return x


def neighbours(operator: Tensor, nodes: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows of a sparse operator at `nodes` over the columns that they touch.

    Args:
        operator: Sparse CSR matrix, (N, N).
        nodes: Positions, (B,) int64.

    Returns:
        The columns, (F,) int64 in order, and the sparse COO matrix (B, F) with ``operator[nodes] = part[:, columns]``.
    """
    start, count = operator.crow_indices()[nodes], operator.crow_indices()[nodes + 1]
    count = count - start
    row = torch.repeat_interleave(torch.arange(len(nodes), device=nodes.device), count)
    first = torch.repeat_interleave(start - (count.cumsum(0) - count), count)
    at = first + torch.arange(len(row), device=nodes.device)
    columns, column = torch.unique(operator.col_indices()[at], return_inverse=True)
    values = operator.values()[at]
    return columns, torch.sparse_coo_tensor(torch.stack([row, column]), values, (len(nodes), len(columns)))
