"""Sets of labelled graphs as image data: a graph is a matrix of its features beside its adjacency."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch_geometric.data import Data
from torch_geometric.utils import to_dense_adj

import ddsdk as dd
from ddsdk.data import sample_indices
from ddsdk.foundation import derive, require
from ddsdk_integrations.graph.load import TextGraphs


def packed(x: Tensor, adjacency: Tensor) -> Tensor:
    """Return graphs as images, (B, 1, N, T + N): features (B, N, T) beside the adjacency (B, N, N)."""
    return torch.cat([x, adjacency], dim=2)[:, None]


def unpacked(images: Tensor, tags: int) -> tuple[Tensor, Tensor]:
    """Return features (B, N, T) and adjacency (B, N, N) of `packed` graphs with T `tags`."""
    rows = images[:, 0]
    return rows[..., :tags], rows[..., tags:]


@final
class GraphSet:
    """A task of graph classification: labelled graphs in a training, a validation and a test split.

    Splits are stratified by class, and each is real data of packed graphs. A graph with fewer nodes than the largest
    is padded with nodes without features and edges. A packed graph takes N (T + N) bytes.

    Args:
        found: PyG graphs with one-hot tags x, edge_index in both directions and y (1,), and the number of classes.
        rng: Generator of the split; validation and test each get a tenth of every class.
        name: Label of the data in reports.

    Examples:
        >>> import ddsdk, torch
        >>> from torch_geometric.data import Data
        >>> from ddsdk_integrations.graph import GraphSet, TextGraphs
        >>> edge = torch.tensor([[0, 1], [1, 0]])
        >>> graphs = [Data(x=torch.eye(2), edge_index=edge, y=torch.tensor([i % 2])) for i in range(40)]
        >>> len(GraphSet(TextGraphs(graphs, 2), rng=ddsdk.generator(0)).train)
        32
    """

    def __init__(self, found: TextGraphs, *, rng: torch.Generator, name: str = "graphs") -> None:
        graphs, classes = found
        require(len(graphs) > 0, "graphs", "hold at least one graph", len(graphs))
        self.tags = int(graphs[0].x.shape[1])
        largest = max(len(graph.x) for graph in graphs)
        images = torch.stack([_as_bytes(graph, largest) for graph in graphs])
        whole = dd.RealData(
            images,
            torch.cat([graph.y for graph in graphs]),
            class_names=tuple(map(str, range(classes))),
            preprocess=dd.Preprocess.unit(1),
            name=name,
            pictures=False,
        )
        train_and_val, self.test = whole.split(0.1, derive(rng, "test"))
        # A ninth of nine tenths is a tenth of all graphs.
        self.train, self.val = train_and_val.split(1 / 9, derive(rng, "validation"))


def _as_bytes(graph: Data, nodes: int) -> Tensor:
    size = len(graph.x)
    image = torch.zeros(1, nodes, graph.x.shape[1] + nodes, dtype=torch.uint8)
    image[0, :size, : graph.x.shape[1]] = graph.x.byte() * 255
    # A repeated edge counts once: `to_dense_adj` adds the weights of repetitions.
    dense = to_dense_adj(graph.edge_index, max_num_nodes=size)[0] > 0
    image[0, :size, graph.x.shape[1] : graph.x.shape[1] + size] = dense.byte() * 255
    return image


def small_graphs(graphs: GraphSet, ipc: int, nodes: int, rng: torch.Generator) -> Tensor:
    """Return `ipc` random real graphs of each class with at most `nodes` nodes, packed to that size, sorted by class.

    The result has shape (K ipc, 1, nodes, T + nodes).
    """
    tags, packed_graphs = graphs.tags, []
    for c in range(graphs.train.num_classes):
        index = graphs.train.index_of_class(c)
        x, adjacency = unpacked(graphs.train.batch(index).x, tags)
        # Tags are one-hot, so their sum is the number of nodes.
        small = torch.nonzero(x.flatten(1).sum(1) <= nodes).flatten()
        rule = f"not exceed the {len(small)} graphs of class {c} with at most {nodes} nodes"
        require(len(small) >= ipc, "ipc", rule, ipc)
        picks = sample_indices(small, ipc, derive(rng, c))
        # Padding comes after the real nodes, so cutting at `nodes` removes padding only.
        padding = max(0, nodes - x.shape[1])
        x, adjacency = pad(x[picks], (0, 0, 0, padding)), pad(adjacency[picks], (0, padding, 0, padding))
        packed_graphs.append(packed(x[:, :nodes], adjacency[:, :nodes, :nodes]))
    return torch.cat(packed_graphs)
