"""Labelled graphs as data: a padded graph is a matrix of features beside its adjacency, and so an image."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch_geometric.data import Data
from torch_geometric.utils import to_dense_adj

import ddsdk as dd
from ddsdk.data import choose
from ddsdk.foundation import derive, require
from ddsdk_integrations.graph.load import TextGraphs


def packed(x: Tensor, adjacency: Tensor) -> Tensor:
    """Return graphs as images, (B, 1, N, T + N): features (B, N, T) beside the adjacency (B, N, N)."""
    return torch.cat([x, adjacency], dim=2)[:, None]


def unpacked(images: Tensor, tags: int) -> tuple[Tensor, Tensor]:
    """Return features (B, N, T) and adjacency (B, N, N) of `packed` graphs."""
    rows = images[:, 0]
    return rows[..., :tags], rows[..., tags:]


@final
class GraphSet:
    """Labelled graphs in three parts, each as real data of packed graphs.

    Args:
        found: PyG graphs with one-hot tags x, edge_index both ways and y (1,), and the number of classes.
        rng: Generator of the split: validation and test have a tenth of each class each.
        name: Label of the data in reports.

    A graph with fewer nodes than the largest is padded with nodes that have no tag and no edge. Adjacencies are kept as
    bytes: N (T + N) for each graph.
    """

    def __init__(self, found: TextGraphs, *, rng: torch.Generator, name: str = "graphs") -> None:
        graphs, classes = found
        require(len(graphs) > 0, "graphs", "hold a graph", len(graphs))
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
        rest, self.test = whole.split(0.1, derive(rng, "test"))
        self.train, self.val = rest.split(1 / 9, derive(rng, "validation"))


def _as_bytes(graph: Data, nodes: int) -> Tensor:
    size = len(graph.x)
    image = torch.zeros(1, nodes, graph.x.shape[1] + nodes, dtype=torch.uint8)
    image[0, :size, : graph.x.shape[1]] = graph.x.byte() * 255
    # A bond that a file names twice is one.
    dense = to_dense_adj(graph.edge_index, max_num_nodes=size)[0] > 0
    image[0, :size, graph.x.shape[1] : graph.x.shape[1] + size] = dense.byte() * 255
    return image


def small_graphs(graphs: GraphSet, ipc: int, nodes: int, rng: torch.Generator) -> Tensor:
    """Return random real graphs of each class with at most `nodes` nodes, packed to that size, class by class."""
    tags, found = graphs.tags, []
    for c in range(graphs.train.num_classes):
        index = graphs.train.index_of_class(c)
        x, adjacency = unpacked(graphs.train.batch(index).x, tags)
        small = torch.nonzero(x.flatten(1).sum(1) <= nodes).flatten()
        require(len(small) >= ipc, "ipc", f"not exceed the {len(small)} graphs of class {c} so small", ipc)
        picks = choose(small, ipc, derive(rng, c))
        # Real nodes come first, so that none of them is lost.
        more = max(0, nodes - x.shape[1])
        x, adjacency = pad(x[picks], (0, 0, 0, more)), pad(adjacency[picks], (0, more, 0, more))
        found.append(packed(x[:, :nodes], adjacency[:, :nodes, :nodes]))
    return torch.cat(found)
