"""Whole graphs: packing, the dense network against PyG's, and DosCond."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch_geometric.data import Data
from torch_geometric.nn import GCNConv, global_mean_pool
from torch_geometric.utils import to_undirected

import ddsdk as dd
from ddsdk_integrations.graph import (
    GRAPHS_PROTOCOL,
    DosCondGraphs,
    GraphSet,
    RandomGraphs,
    evaluate_graphs,
    graph_student,
    to_batch,
)
from ddsdk_integrations.graph.graph_sets import packed, unpacked
from ddsdk_integrations.graph.load import TextGraphs

QUICK = dataclasses.replace(GRAPHS_PROTOCOL, networks=2, epochs=30, network_options={"width": 8, "layers": 2})


def graphs(count=60):
    """Return rings (class 0) and stars (class 1) of 4 to 8 nodes, each with the tag of its class."""
    found = []
    for i in range(count):
        n = 4 + i % 5
        ring = torch.stack([torch.arange(n), (torch.arange(n) + 1) % n])
        star = torch.stack([torch.zeros(n - 1, dtype=torch.int64), torch.arange(1, n)])
        x = torch.eye(3)[torch.full((n,), 2 * (i % 2))]
        index = to_undirected(ring if i % 2 == 0 else star, num_nodes=n)
        found.append(Data(x=x, edge_index=index, y=torch.tensor([i % 2])))
    return TextGraphs(found, 2)


@pytest.fixture
def task():
    return GraphSet(graphs(), rng=dd.generator("split"))


def test_parts_are_disjoint_tenths_of_each_class(task):
    assert [part.class_sizes for part in (task.train, task.val, task.test)] == [(24, 24), (3, 3), (3, 3)]
    assert task.train.image_shape == (1, 8, 11)


def test_packing_is_undone():
    x, adjacency = torch.rand(2, 4, 3, generator=dd.generator(0)), torch.eye(4).repeat(2, 1, 1)
    again = unpacked(packed(x, adjacency), 3)
    assert torch.equal(again[0], x)
    assert torch.equal(again[1], adjacency)


def test_the_dense_network_is_pygs_on_padded_graphs(task):
    network = graph_student(3, 2, width=8, layers=2)(dd.generator("w"))
    batch = task.train.batch(torch.arange(5))
    x, adjacency = unpacked(batch.x, 3)
    layers = network.body[0].layers
    expected = []
    for features, dense in zip(x, adjacency, strict=True):
        n = int(features.sum())
        h, index = features[:n], torch.nonzero(dense).T
        for layer in layers:
            conv = GCNConv(*layer.weight.shape[::-1])
            conv.lin.weight.data, conv.bias.data = layer.weight.data, torch.zeros(len(layer.bias))
            # PyG adds its bias after the propagation; ours is propagated with the features.
            ones = GCNConv(1, 1, bias=False)
            ones.lin.weight.data = torch.ones(1, 1)
            h = (conv(h, index) + ones(torch.ones(n, 1), index) * layer.bias).relu()
        expected.append(global_mean_pool(h, torch.zeros(n, dtype=torch.int64))[0])
    torch.testing.assert_close(network.embed(batch.x), torch.stack(expected), atol=1e-5, rtol=1e-5)


def test_condensed_graphs_travel_and_are_judged(task, tmp_path):
    recipe = DosCondGraphs(ipc=2, nodes=6, steps=5, width=8, layers=2, real_batch=8)
    distilled = dd.distill(recipe, task, seed=0)
    assert tuple(distilled.images.shape) == (4, 1, 6, 3)
    assert set(distilled.edge_weight.tolist()) == {1.0}
    distilled.save(tmp_path / "set")
    again = dd.Distilled.load(tmp_path / "set")
    assert again.content_id == distilled.content_id == dd.distill(recipe, task, seed=0).content_id
    batch = to_batch(again)
    assert batch.num_graphs == 4
    assert batch.y.tolist() == [0, 0, 1, 1]
    # No edge leads from one graph to another.
    assert torch.equal(batch.batch[batch.edge_index[0]], batch.batch[batch.edge_index[1]])
    assert again.manifest.storage.floats == 4 * 6 * 3 + 4 + 3 * again.edge_index.shape[1]
    score = evaluate_graphs(again, task, QUICK, seed=1)
    assert len(score.accuracies) == 2
    assert score.accuracies == evaluate_graphs(again, task, QUICK, seed=1).accuracies


def test_the_network_that_matched_graphs_is_recorded(task):
    recipe = DosCondGraphs(ipc=1, nodes=6, steps=1, width=8, layers=2, real_batch=8)
    options = {"tags": 3, "classes": 2, "width": 8, "layers": 2}
    found = dd.distill(recipe, task)
    assert found.provenance["student"] == {"network": "dense-gcn", "options": options}
    other = dd.distill(recipe, task, make_student=graph_student(3, 2, width=4, layers=1))
    assert other.provenance["student"]["options"]["width"] == 4
    assert not torch.equal(other.images, found.images)
    assert "student" not in dd.distill(RandomGraphs(ipc=1, nodes=6), task).provenance
    with pytest.raises(ValueError, match="make_student must be left out for random graphs"):
        dd.distill(RandomGraphs(ipc=1), task, make_student=graph_student(3, 2))


def test_random_graphs_are_real_ones(task):
    distilled = dd.distill(RandomGraphs(ipc=3, nodes=8), task, seed=0)
    batch = to_batch(distilled)
    for graph in batch.to_data_list():
        degrees = torch.bincount(graph.edge_index[0], minlength=len(graph.x))
        ring = bool((degrees == 2).all())
        assert ring == (int(graph.y) == 0)


def test_a_network_learns_from_real_graphs(task):
    score = evaluate_graphs(task.train, task, dataclasses.replace(QUICK, networks=1, epochs=20, lr=0.05), seed=1)
    assert score.mean > 0.9


def test_too_few_small_graphs_are_refused(task):
    with pytest.raises(ValueError, match="ipc must not exceed the"):
        dd.distill(DosCondGraphs(ipc=20, nodes=4, steps=1), task, seed=0)
    with pytest.raises(ValueError, match="nodes"):
        DosCondGraphs(nodes=0)
    with pytest.raises(ValueError, match="ipc"):
        RandomGraphs(ipc=0)
    with pytest.raises(ValueError, match="validation must be left out for graphs"):
        dd.distill(DosCondGraphs(), task, validation=object())
