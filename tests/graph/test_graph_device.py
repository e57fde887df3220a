"""A condensed graph is made and judged on the device of the real graph, see tests/fake_device.py."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from fake_device import CUDA, FakeCuda
from small_graphs import small_data
from test_condensation import QUICK, RECIPES

import ddsdk as dd
from ddsdk_integrations.graph import GraphData, evaluate_graph, whole_graph_scores

SHORT = dataclasses.replace(QUICK, networks=1, epochs=5)


@pytest.fixture
def fake(monkeypatch, tmp_path):
    monkeypatch.setenv("DDSDK_CACHE", str(tmp_path))
    with FakeCuda() as cuda:
        yield cuda


@pytest.mark.parametrize("name", ["gcond", "self-expressive", "sfgc, soft", "gc-sntk", "k-center"])
def test_a_graph_is_condensed_and_judged_on_its_device(name, fake):
    """The networks and kernels of the judge are on the device as well."""
    found = []
    for device in ("cpu", "cuda"):
        graph = GraphData(small_data().to(device), name="small")
        assert graph.device.type == device
        distilled = dd.distill(RECIPES[name], graph)
        protocol = None if name == "gc-sntk" else SHORT
        found.append((distilled.images, evaluate_graph(distilled, graph, protocol).accuracies))
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]


def test_the_splits_of_a_graph_are_on_its_device(fake):
    data = small_data().to("cuda")
    data.n_id = torch.arange(24, device="cuda")
    parts = []
    for i, name in enumerate(("train_mask", "val_mask", "test_mask")):
        part = data.subgraph(data[name])
        part.n_id = torch.arange(8 * i, 8 * i + 8, device="cuda")
        parts.append(part)
    for graph in (GraphData(data), GraphData(data, setting="inductive"), GraphData.of_parts(*parts)):
        for split in (graph.train, graph.val, graph.test):
            assert {split.nodes.device, split.ids.device, split.labels.device} == {CUDA}


def test_networks_train_on_the_whole_graph_on_its_device(fake):
    graphs = [GraphData(small_data().to(device)) for device in ("cpu", "cuda")]
    assert whole_graph_scores(graphs[0], SHORT) == whole_graph_scores(graphs[1], SHORT)
