"""A small graph that tests share."""

from __future__ import annotations

import torch
from torch_geometric.data import Data
from torch_geometric.utils import to_undirected

import ddsdk as dd
from ddsdk_integrations.graph import GraphData


def small_data(nodes=24, features=5, classes=3, seed=0):
    """Return a random connected-ish PyG graph with features in the unit range and a split of thirds."""
    rng = dd.generator("small-graph", nodes, seed)
    y = torch.arange(nodes) % classes
    edges = torch.randint(nodes, (2, 2 * nodes), generator=rng)
    index = to_undirected(edges[:, edges[0] != edges[1]], num_nodes=nodes)
    x = torch.rand(nodes, features, generator=rng) * 0.5
    x[:, :classes] += 0.4 * torch.eye(classes)[y]
    third = nodes // 3
    masks = {
        name: (torch.arange(nodes) // third) == i for i, name in enumerate(("train_mask", "val_mask", "test_mask"))
    }
    return Data(x=x, edge_index=index, y=y, **masks)


def small_graph(**options):
    """Return it as a task."""
    return GraphData(small_data(), name="small", **options)
