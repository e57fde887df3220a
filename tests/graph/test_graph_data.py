"""Graphs as data: what may be seen, what is refused, and what local files give."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
import torch
from small_graphs import small_data, small_graph
from torch_geometric.nn.conv.gcn_conv import gcn_norm

import ddsdk as dd
from ddsdk_integrations.graph import (
    GraphData,
    dense_normalised_adjacency,
    load_graph,
    normalised_adjacency,
    planetoid,
    propagated,
    read_text_graphs,
    stochastic_blocks,
    tolokers,
)
from ddsdk_integrations.graph.data import feature_space
from ddsdk_integrations.graph.propagation import neighbours

ROOT = os.environ.get("DDSDK_DATA_ROOT", "")


def dense(data):
    adjacency = torch.zeros(len(data.x), len(data.x))
    adjacency[data.edge_index[0], data.edge_index[1]] = 1
    return adjacency


def test_the_operator_is_that_of_pyg_sparse_and_dense():
    data = small_data()
    index, weight = gcn_norm(data.edge_index, None, len(data.x))
    theirs = torch.zeros(len(data.x), len(data.x))
    theirs[index[1], index[0]] = weight
    torch.testing.assert_close(normalised_adjacency(data.edge_index, len(data.x)).to_dense(), theirs)
    torch.testing.assert_close(dense_normalised_adjacency(dense(data)), theirs)


def directed_data():
    """Return the small graph with one-way edges that differ in weight, no two of them between the same nodes."""
    data = small_data()
    pairs = {tuple(sorted(edge)) for edge in data.edge_index.T.tolist()}
    ends = [(a, b) if (a + b) % 3 else (b, a) for a, b in sorted(pairs)]
    data.edge_index = torch.tensor(ends).T
    return data, torch.rand(len(ends), generator=dd.generator("weights")) + 0.5


@pytest.mark.parametrize("weighted", [False, True])
def test_messages_of_a_directed_graph_go_from_source_to_target(weighted):
    """Slow: one edge at a time."""
    data, weights = directed_data()
    given = weights if weighted else None
    edges = [
        (a, b, float(w) if weighted else 1.0) for (a, b), w in zip(data.edge_index.T.tolist(), weights, strict=True)
    ]
    edges += [(i, i, 1.0) for i in range(24)]
    into = [sum(w for _, end, w in edges if end == i) for i in range(24)]
    slow = data.x.clone()
    for _ in range(2):
        before, slow = slow, torch.zeros_like(slow)
        for a, b, w in edges:
            slow[b] += w * before[a] / (into[a] * into[b]) ** 0.5
    operator = normalised_adjacency(data.edge_index, 24, given)
    torch.testing.assert_close(propagated(operator, data.x, 2), slow)
    other_way = propagated(operator.to_dense().T, data.x, 2)
    assert float((other_way - slow).abs().max()) > 0.1
    nodes = torch.tensor([7, 2, 2, 19])
    columns, part = neighbours(operator, nodes)
    torch.testing.assert_close(part @ propagated(operator, data.x, 1)[columns], slow[nodes])
    if not weighted:
        rows = GraphData(data).rows(2)
        torch.testing.assert_close(rows.batch(torch.arange(8)).x.flatten(1), slow[data.train_mask])


def test_weighted_edges_are_normalised_as_by_hand():
    weights = torch.tensor([[0.0, 0.5, 0.0], [0.5, 0.0, 0.25], [0.0, 0.25, 0.0]])
    index = torch.nonzero(weights).T
    degree = weights.sum(1) + 1
    by_hand = (weights + torch.eye(3)) / (degree[:, None] * degree).sqrt()
    torch.testing.assert_close(normalised_adjacency(index, 3, weights[index[0], index[1]]).to_dense(), by_hand)
    torch.testing.assert_close(dense_normalised_adjacency(weights), by_hand)
    torch.testing.assert_close(dense_normalised_adjacency(torch.stack([weights, weights]))[1], by_hand)


def test_a_node_without_edges_keeps_itself():
    operator = normalised_adjacency(torch.tensor([[0, 1], [1, 0]]), 3).to_dense()
    assert operator[2].tolist() == [0, 0, 1]


def test_rows_of_an_operator_come_with_their_columns():
    data = small_data()
    operator = normalised_adjacency(data.edge_index, len(data.x))
    nodes = torch.tensor([7, 2, 2, 19])
    columns, part = neighbours(operator, nodes)
    whole = torch.zeros(4, len(data.x))
    whole[:, columns] = part.to_dense()
    torch.testing.assert_close(whole, operator.to_dense()[nodes])


def test_rows_are_the_propagated_features_of_training_nodes():
    graph, data = small_graph(), small_data()
    by_hand = torch.linalg.matrix_power(dense_normalised_adjacency(dense(data)), 2) @ data.x
    rows = graph.rows(2)
    assert rows is graph.rows(2)
    found = rows.batch(torch.arange(len(rows)))
    torch.testing.assert_close(found.x.flatten(1), by_hand[data.train_mask])
    assert found.y.argmax(1).tolist() == data.y[data.train_mask].tolist()
    torch.testing.assert_close(propagated(graph.train.graph.operator, graph.train.graph.x, 0), graph.train.graph.x)


def test_features_beyond_the_unit_range_come_back():
    x = torch.tensor([[-3.0, 0.0], [4.0, 1.5]])
    space = feature_space(x)
    torch.testing.assert_close(space(space.inverse(x[:, None, None])).flatten(1), x)
    data = small_data()
    data.x = data.x * 8 - 3
    graph = GraphData(data)
    torch.testing.assert_close(
        graph.rows(1).batch(torch.arange(8)).x.flatten(1), graph.propagated(1), atol=1e-5, rtol=0
    )


def test_inductive_parts_see_their_own_nodes_alone():
    data = small_data()
    graph = GraphData(data, setting="inductive")
    for part, mask in ((graph.train, data.train_mask), (graph.val, data.val_mask)):
        assert part.ids.tolist() == torch.nonzero(mask).flatten().tolist()
        inside = mask[data.edge_index[0]] & mask[data.edge_index[1]]
        assert part.graph.edge_index.shape[1] == int(inside.sum())
    torch.testing.assert_close(
        graph.propagated(1),
        (dense_normalised_adjacency(dense(data)[data.train_mask][:, data.train_mask]) @ data.x[data.train_mask]),
    )
    # Held-out features change nothing that condensation sees.
    data.x = torch.where(data.train_mask[:, None], data.x, torch.rand(data.x.shape, generator=dd.generator(1)))
    assert torch.equal(GraphData(data, setting="inductive").propagated(2), graph.propagated(2))
    assert not torch.equal(GraphData(data).propagated(2), small_graph().propagated(2))


def parts(**changes):
    data = small_data()
    found = []
    for name in ("train", "val", "test"):
        mask = data[f"{name}_mask"]
        part = data.subgraph(mask)
        part.n_id = torch.nonzero(mask).flatten()
        found.append(part)
    return found


def test_graphs_that_were_cut_before_are_checked_for_leaks():
    train, val, test = parts()
    assert GraphData.of_parts(train, val, test).setting == "inductive"
    leaking = train.clone()
    leaking.n_id = leaking.n_id.clone()
    leaking.n_id[3] = test.n_id[0]
    with pytest.raises(ValueError, match="test must share no node that is visible in training, got 1"):
        GraphData.of_parts(leaking, val, test)
    # Seen is enough: the leaked node need not be labelled.
    leaking.mask = torch.arange(len(leaking.x)) != 3
    with pytest.raises(ValueError, match="test must share no node that is visible in training, got 1"):
        GraphData.of_parts(leaking, val, test)
    with pytest.raises(ValueError, match="val must have n_id"):
        GraphData.of_parts(train, small_data(), test)


@pytest.mark.parametrize("setting", ["transductive", "inductive"])
def test_masks_that_share_nodes_are_refused(setting):
    data = small_data()
    data.val_mask = data.val_mask | (torch.arange(24) == 0)
    with pytest.raises(ValueError, match=r"val must share no node that is (visible|labelled) in training, got 1"):
        GraphData(data, setting=setting)
    data = small_data()
    data.val_mask = data.val_mask | (torch.arange(24) == 23)
    with pytest.raises(ValueError, match="val must share no node with test, got 1"):
        GraphData(data, setting=setting)


def changed(**values):
    data = small_data()
    for name, value in values.items():
        setattr(data, name, value)
    return data


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GraphData(changed(y=torch.zeros(24))), "y must be"),
        (lambda: GraphData(changed(x=torch.full((24, 5), torch.nan))), "x must hold finite numbers"),
        (lambda: GraphData(changed(edge_index=torch.tensor([[0], [24]]))), "edge_index must lie in 0..23"),
        (lambda: GraphData(changed(val_mask=torch.zeros(24, dtype=torch.bool))), "val_mask must be a boolean mask"),
        (lambda: GraphData(changed(y=torch.where(torch.arange(24) < 8, 0, 2))), "hold a node of every class"),
        (lambda: small_graph(setting="leaky"), "setting must be one of"),
        (lambda: small_graph(metric="auc"), "metric must be for two classes, got 3"),
        (lambda: small_graph(class_names=["a"]), "class_names must name at least 3 classes"),
        (lambda: load_graph("cora"), "root must name the folder with the files of cora, which ddsdk does not download"),
        (lambda: load_graph("pubmed", "."), "data must be cora, cora-words, tolokers or sbm-N"),
        (lambda: stochastic_blocks(100, labelled=0.6), "labelled must lie strictly"),
        (lambda: small_graph().rows(-1), "hops must be"),
    ],
)
def test_bad_graphs_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_what_is_no_graph_is_a_type_error():
    with pytest.raises(TypeError, match="data must be a torch_geometric"):
        GraphData({"x": 1})


def test_generated_blocks_have_the_degree_and_the_homophily_that_were_asked_for():
    graph = stochastic_blocks(4000, degree=8.0, homophily=0.7, classes=4)
    index, y = graph.train.graph.edge_index, torch.arange(4000) * 4 // 4000
    assert abs(index.shape[1] / 4000 - 8) < 0.2
    kin = (y[index[0]] == y[index[1]]).float().mean()
    assert abs(float(kin) - (0.7 + 0.3 / 4)) < 0.02
    again = stochastic_blocks(4000, degree=8.0, homophily=0.7, classes=4)
    assert again.description == graph.description


def test_files_of_another_content_are_never_unpickled(tmp_path):
    raw = tmp_path / "Cora" / "raw"
    raw.mkdir(parents=True)
    for part in ("x", "tx", "allx", "y", "ty", "ally", "graph", "test.index"):
        (raw / f"ind.cora.{part}").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(ValueError, match="files must have the SHA-256"):
        planetoid("cora", tmp_path)
    with pytest.raises(FileNotFoundError):
        planetoid("cora", tmp_path / "elsewhere")


def test_text_graphs_are_read(tmp_path):
    path = tmp_path / "two.txt"
    path.write_text("2\n3 1\n5 1 1\n5 2 0 2\n7 1 1\n2 -1\n7 1 1\n5 1 0\n")
    graphs, classes = read_text_graphs(path)
    assert classes == 2
    assert graphs[0].x.tolist() == [[1, 0], [1, 0], [0, 1]]
    assert sorted(map(tuple, graphs[0].edge_index.T.tolist())) == [(0, 1), (1, 0), (1, 2), (2, 1)]
    assert [int(g.y) for g in graphs] == [1, 0]
    path.write_text("1\n2 1\n5 1 4\n5 1 0\n")
    with pytest.raises(ValueError, match=r"name 1 neighbours in 0\.\.1"):
        read_text_graphs(path)
    path.write_text("3\n1 0\n0 0\n")
    with pytest.raises(ValueError, match="hold 2 integer"):
        read_text_graphs(path)


@pytest.mark.skipif(not ROOT, reason="DDSDK_DATA_ROOT does not name a folder with Cora and tolokers")
def test_real_files_load_without_a_network(monkeypatch):
    def closed(*_, **__):
        raise AssertionError("a download was tried")

    monkeypatch.setattr(socket, "socket", closed)
    cora = planetoid("cora", ROOT)
    assert cora.description["edges"] == 10556
    assert [len(p.nodes) for p in (cora.train, cora.val, cora.test)] == [140, 500, 1000]
    torch.testing.assert_close(cora.train.graph.x.sum(1), torch.ones(2708))
    words = load_graph("cora-words", ROOT)
    assert words.train.graph.x.unique().tolist() == [0.0, 1.0] and words.name == "cora-words"
    assert not (Path(ROOT) / "Cora" / "processed").exists()
    if (Path(ROOT) / "tolokers").exists():
        assert tolokers(ROOT).description["edges"] == 1_038_000
