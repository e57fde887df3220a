"""Condensed graphs of GCond and SFGC: files by their rules become the graph that was saved."""

from __future__ import annotations

import pytest
import torch
from torch_geometric.data import Data

from ddsdk.foundation import ArtifactError
from ddsdk.importing import child
from ddsdk_integrations.graph import (
    GRAPH_PROTOCOL,
    GraphData,
    evaluate_graph,
    import_condensed,
    rebuilt_labels,
    stochastic_blocks,
    to_data,
)


@pytest.fixture(autouse=True)
def in_process(monkeypatch):
    monkeypatch.setattr(child, "limit_memory", lambda nbytes: None)
    read = lambda paths, folder, memory, seconds: child.main(paths, folder, memory)  # noqa: E731
    monkeypatch.setattr("ddsdk.importing.restricted._read_in_child", read)


@pytest.fixture
def graph():
    """A graph whose training nodes have the classes 2 1 1 0 0 3 3 3: two sizes are equal, and 1 comes before 0."""
    y = torch.tensor([2, 1, 1, 0, 0, 3, 3, 3]).repeat(3)
    part = torch.arange(24) // 8
    ring = torch.stack([torch.arange(24), (torch.arange(24) + 1) % 24])
    masks = {f"{name}_mask": part == i for i, name in enumerate(("train", "val", "test"))}
    return GraphData(Data(x=torch.eye(24)[:, :6] + 0.1, edge_index=ring, y=y, **masks))


def test_labels_are_rebuilt_by_ascending_sizes_and_first_nodes(graph):
    assert rebuilt_labels(graph, 4).tolist() == [2, 1, 0, 3]
    # Shares of 16 nodes for sizes 1, 2, 2, 3 are 2, 4, 4, and the rest.
    assert rebuilt_labels(graph, 16).tolist() == [2] * 2 + [1] * 4 + [0] * 4 + [3] * 6
    # Shares are rounded down, and the last class has the rest: 9/8 of 1, 2, 2.
    assert rebuilt_labels(graph, 9).bincount().tolist() == [2, 2, 1, 4]
    with pytest.raises(ValueError, match="nodes must be at least 4"):
        rebuilt_labels(graph, 3)


def test_a_graph_of_gcond_has_its_edges_and_rebuilt_labels(graph, tmp_path):
    features = torch.rand(8, 6, generator=torch.Generator().manual_seed(0))
    adjacency = torch.zeros(8, 8)
    adjacency[0, 1] = adjacency[1, 0] = 0.7
    adjacency[2, 3] = adjacency[3, 2] = 0.009
    torch.save(features.requires_grad_(), tmp_path / "feat_made_0.5_15.pt")
    torch.save(adjacency, tmp_path / "adj_made_0.5_15.pt")
    data = to_data(import_condensed(tmp_path, graph))
    torch.testing.assert_close(data.x, features.detach())
    assert data.edge_index.tolist() == [[0, 1], [1, 0]]
    assert data.edge_weight.tolist() == pytest.approx([0.7, 0.7])
    assert torch.equal(data.y, rebuilt_labels(graph, 8))
    assert import_condensed(tmp_path, graph, threshold=0.005).edge_weight.numel() == 4


def test_a_graph_of_sfgc_has_its_labels_and_no_edges(graph, tmp_path):
    labels = torch.tensor([3, 2, 1, 0])
    torch.save(torch.rand(4, 6), tmp_path / "feat_made_0.5_best.pt")
    torch.save(labels, tmp_path / "label_made_0.5_best.pt")
    distilled = import_condensed(tmp_path / "feat_made_0.5_best.pt", graph)
    assert torch.equal(distilled.owner, labels)
    assert distilled.edge_index is None
    protocol = distilled.provenance["imported"]
    assert (protocol["layout"], protocol["labels"]) == ("sfgc", "stored")
    short = GRAPH_PROTOCOL.changed(epochs=2, networks=1)
    assert 0 <= evaluate_graph(distilled, graph, short).mean <= 1


def test_a_released_graph_is_scored_by_the_labels_of_gcond_and_fails_with_others(tmp_path):
    graph = stochastic_blocks(300, classes=4, features=8, signal=4.0, labelled=0.2, seed=1)
    part = graph.train
    # The order of the file: classes by ascending size, of equal sizes that of the first training node.
    found = part.labels.tolist()
    order = sorted(set(found), key=lambda c: (found.count(c), found.index(c)))
    assert order != [0, 1, 2, 3]
    means = torch.stack([part.graph.x[part.nodes[part.labels == c]].mean(0) for c in order])
    protocol = GRAPH_PROTOCOL.changed(epochs=40, networks=1)
    torch.save(means, tmp_path / "feat_blocks_0.5_1.pt")
    torch.save(torch.zeros(4, 4), tmp_path / "adj_blocks_0.5_1.pt")
    assert evaluate_graph(import_condensed(tmp_path, graph), graph, protocol).mean > 0.9
    torch.save(torch.arange(4), tmp_path / "label_blocks_0.5_2.pt")
    torch.save(means, tmp_path / "feat_blocks_0.5_2.pt")
    by_number = import_condensed(tmp_path / "feat_blocks_0.5_2.pt", graph)
    assert evaluate_graph(by_number, graph, protocol).mean < 0.7


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "path must be a file feat_"),
        ({"feat_a": torch.rand(4, 6)}, "adj_a.pt or label_a.pt must be beside"),
        ({"feat_a": torch.rand(4, 5), "label_a": torch.arange(4)}, r"features must be \(M, 6\)"),
        ({"feat_a": torch.rand(4, 6), "label_a": torch.arange(5)}, "labels must be 4 classes below 4"),
        ({"feat_a": torch.rand(4, 6), "label_a": torch.arange(4) + 1}, "labels must be 4 classes below 4"),
        ({"feat_a": torch.rand(4, 6), "adj_a": torch.rand(3, 3)}, r"adjacency must be \(4, 4\)"),
    ],
)
def test_files_that_do_not_fit_are_refused(graph, tmp_path, files, message):
    for name, tensor in files.items():
        torch.save(tensor, tmp_path / f"{name}.pt")
    with pytest.raises(ArtifactError, match=message):
        import_condensed(tmp_path, graph)
