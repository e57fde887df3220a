"""Recipes on a small graph: what they give travels in an artefact, trains networks, and is judged as it should be."""

from __future__ import annotations

import dataclasses
import pickle

import pytest
import torch
from small_graphs import small_data, small_graph
from torch_geometric.data import Data

import ddsdk as dd
from ddsdk.running import Run
from ddsdk.synthetic import Pixels
from ddsdk_integrations.graph import (
    GCDM,
    GCSNTK,
    GRAPH_NETWORKS,
    GRAPH_PROTOCOL,
    SFGC,
    CoresetNodes,
    DosCond,
    GCond,
    GraphData,
    PropagatedNodes,
    evaluate_graph,
    graph_network,
    graph_student,
    stochastic_blocks,
    to_data,
    whole_graph_scores,
)
from ddsdk_integrations.graph.judge import metric_of, split_score, trained_on_graph
from ddsdk_integrations.graph.networks import GraphNetwork, linear_student, perceptron_student

RECIPES = {
    "gcond": GCond(nodes=7, steps=4, outer=2, inner=1, edge_bias=-0.5),
    "gcond-x": GCond(nodes=7, steps=4, outer=2, inner=1, structure="none"),
    "self-expressive": GCond(nodes=7, steps=4, structure="self-expressive", threshold=0.0),
    "doscond": DosCond(nodes=7, steps=4),
    "gcdm": GCDM(nodes=7, steps=4, width=8),
    "sfgc": SFGC(nodes=7, steps=3, width=6, experts=2, expert_epochs=20, every=2, span=2, last=5),
    "sfgc, soft": SFGC(nodes=7, steps=3, width=6, experts=1, expert_epochs=9, every=1, span=2, last=5, label_lr=0.1),
    "gc-sntk": GCSNTK(nodes=7, steps=4, label_lr=0.01),
    "random": CoresetNodes(nodes=7),
    "herding": CoresetNodes(nodes=7, choice="herding"),
    "k-center": CoresetNodes(nodes=7, choice="k-center"),
    "propagated": PropagatedNodes(nodes=7),
    "class means": PropagatedNodes(nodes=7, means=True),
}
QUICK = dataclasses.replace(GRAPH_PROTOCOL, network_options={"width": 8}, networks=2, epochs=25)


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("setting", ["transductive", "inductive"])
def test_every_method_gives_a_set_that_comes_back_and_is_judged(name, setting, tmp_path):
    graph = small_graph(setting=setting)
    distilled = dd.distill(RECIPES[name], graph, seed=1)
    assert distilled.content_id == dd.distill(RECIPES[name], graph, seed=1).content_id
    distilled.save(tmp_path / "set")
    again = dd.Distilled.load(tmp_path / "set")
    assert again.content_id == distilled.content_id == dd.Distilled.from_bytes(distilled.to_bytes()).content_id
    data = to_data(again)
    assert isinstance(data, Data)
    assert (tuple(data.x.shape), tuple(data.y_rows.shape)) == ((7, 5), (7, 3))
    assert torch.bincount(data.y).tolist() == [3, 2, 2]
    edges = data.edge_weight.numel()
    storage = again.manifest.storage
    assert storage.image_floats == 35
    assert storage.floats == 35 + storage.label_floats + 3 * edges
    assert (again.manifest.format == 4) == (edges > 0)
    assert again.provenance["data"]["setting"] == setting
    judge = dataclasses.replace(QUICK, labels="hard" if name == "gc-sntk" else "stored")
    score = evaluate_graph(again, graph, judge, seed=dd.generator("judge"))
    assert len(score.accuracies) == 2
    assert score.accuracies == evaluate_graph(again, graph, judge, seed=dd.generator("judge")).accuracies
    assert (score.images, score.stored_floats, score.loss) == (7, storage.floats, "cross-entropy")


@pytest.mark.parametrize("name", RECIPES)
def test_the_network_that_matched_a_set_is_recorded(name):
    graph, method = small_graph(), RECIPES[name]
    found = dd.distill(method, graph).provenance.get("student")
    networks = {"gcond": "linear", "doscond": "linear", "gcdm": "perceptron", "sfgc": "perceptron"}
    wanted = networks.get(method.name)
    if wanted is None:
        assert found is None
        assert not method.uses_networks()
        return
    width = {"width": method.width} if wanted == "perceptron" else {}
    assert found == {"network": wanted, "options": {"features": 5, "classes": 3, **width}}


@pytest.mark.parametrize("name", ["gcond-x", "doscond", "gcdm", "sfgc"])
def test_sets_are_matched_under_the_network_of_the_caller(name):
    graph = small_graph()
    given = dd.network_factory("mlp", graph.rows(2).image_shape, 3, width=4)
    found = dd.distill(RECIPES[name], graph, make_student=given)
    assert found.provenance["student"] == {"network": "mlp", "options": given.options}
    assert not torch.equal(found.images, dd.distill(RECIPES[name], graph).images)


@pytest.mark.parametrize("name", ["gc-sntk", "random", "propagated"])
def test_a_factory_is_refused_where_nothing_would_use_it(name):
    graph = small_graph()
    message = f"make_student must be left out for {RECIPES[name].name}, which has no networks"
    with pytest.raises(ValueError, match=message):
        dd.distill(RECIPES[name], graph, make_student=linear_student(5, 3))


def test_experts_count_among_the_costs():
    graph = small_graph()
    found = dd.distill(RECIPES["sfgc"], graph).provenance
    assert found["runs"]["count"] == 2
    assert found["seconds"] >= found["runs"]["seconds"] > 0


@pytest.mark.parametrize(
    "make", [lambda: linear_student(5, 3), lambda: perceptron_student(5, 3, 4), lambda: graph_student(2, 3, width=4)]
)
def test_factories_draw_from_their_generator_alone_and_are_pickled(make):
    state, factory = torch.get_rng_state(), make()
    again = pickle.loads(pickle.dumps(factory))  # noqa: S301  # what was just written
    one, two = factory(dd.generator("w")), again(dd.generator("w"))
    assert torch.equal(torch.get_rng_state(), state)
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(a, b)
    assert any(bool(p.any()) for p in one.parameters())


def test_a_set_that_is_no_graph_is_refused_before_the_first_step():
    def rows_alone(plan):
        syn = plan.syn
        pixels = Pixels(syn.parametrization.x.detach()[:, None, None])
        return dataclasses.replace(plan, syn=dd.SyntheticSet(pixels, syn.labels, syn.classes, 3))

    with pytest.raises(TypeError, match="syn must be a set of SyntheticNodes, got Pixels"):
        _ = Run(GCond(nodes=7), small_graph(), transform=rows_alone).distillation


def test_real_nodes_keep_the_edges_among_them():
    data = small_data()
    found = to_data(dd.distill(CoresetNodes(nodes=8), GraphData(data), seed=0))
    place = [int(torch.nonzero((data.x == row).all(1))) for row in found.x]
    assert sorted(place) == torch.nonzero(data.train_mask).flatten().tolist()
    mine = {(place[a], place[b]) for a, b in found.edge_index.T.tolist()}
    theirs = {(a, b) for a, b in data.edge_index.T.tolist() if a in place and b in place}
    assert mine == theirs
    assert data.y[place].tolist() == found.y.tolist()


def test_light_edges_are_left_out_of_the_export():
    graph, recipe = small_graph(), GCond(nodes=7, steps=1, edge_bias=0.0)
    all_of_them = dd.distill(dataclasses.replace(recipe, threshold=0.0), graph, seed=0)
    heavy = dd.distill(dataclasses.replace(recipe, threshold=0.5), graph, seed=0)
    assert all_of_them.edge_index.shape[1] == 42
    assert float(heavy.edge_weight.min()) >= 0.5
    assert heavy.edge_index.shape[1] == int((all_of_them.edge_weight >= 0.5).sum())


def test_a_kernel_has_one_score_of_its_own_kind():
    graph = small_graph()
    distilled = dd.distill(GCSNTK(nodes=7, steps=2), graph, seed=0)
    score = evaluate_graph(distilled, graph, seed=1)
    assert (len(score.accuracies), score.loss) == (1, "ridge")
    assert "structure-ntk kernel" in score.network


@pytest.mark.parametrize("name", GRAPH_NETWORKS)
def test_networks_come_from_their_generator_and_train(name):
    state = torch.get_rng_state()
    one, two = (graph_network(name, 5, 3, dd.generator("w"), width=8) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(a, b)
    graph = stochastic_blocks(60, classes=3, features=5, signal=3.0, homophily=0.95, labelled=0.3)
    protocol = dataclasses.replace(QUICK, network=name, epochs=40, lr=0.05)
    if name == "sgc":
        protocol = dataclasses.replace(protocol, network_options={"hops": 2})
    found = to_data(dd.distill(CoresetNodes(nodes=12), graph, seed=0))
    network = trained_on_graph(found, graph, protocol, dd.generator("t"))
    assert split_score(network, graph, graph.val) > 0.6


def test_a_perceptron_sees_no_edges_and_the_others_do():
    data = small_data()
    none = torch.zeros(2, 0, dtype=torch.int64)
    for name in GRAPH_NETWORKS:
        network = graph_network(name, 5, 3, dd.generator("w"))
        same = torch.allclose(network(data.x, data.edge_index), network(data.x, none))
        assert same == (name == "mlp"), name
    assert isinstance(graph_network("mlp", 5, 3, dd.generator("w")), GraphNetwork)


def test_the_test_nodes_decide_nothing():
    data, other = small_data(), small_data()
    other.y = torch.where(other.test_mask, (other.y + 1) % 3, other.y)
    sets = [
        dd.distill(GCond(nodes=7, steps=2, validate_every=2, structure="none"), GraphData(d), seed=0)
        for d in (data, other)
    ]
    assert torch.equal(sets[0].images, sets[1].images)
    networks = [trained_on_graph(to_data(sets[0]), GraphData(d), QUICK, dd.generator("t")) for d in (data, other)]
    for a, b in zip(*(n.parameters() for n in networks), strict=True):
        assert torch.equal(a, b)


def test_validation_keeps_the_best_set():
    recipe = GCond(nodes=7, steps=4, validate_every=2, structure="none")
    found = dd.distill(recipe, small_graph(), seed=0).provenance
    assert found["best_step"] in (0, 2, 4)
    assert 0 <= found["best_value"] <= 1


def test_the_area_under_the_curve_is_that_of_all_pairs():
    scores, labels = torch.randn(40, 2, generator=dd.generator(0)), torch.arange(40) % 2
    lead = scores[:, 1] - scores[:, 0]
    pairs = lead[labels == 1][:, None] > lead[labels == 0]
    assert metric_of(scores, labels, "auc") == pytest.approx(float(pairs.float().mean()))
    assert metric_of(scores, labels, "accuracy") == pytest.approx(float(((lead > 0).long() == labels).float().mean()))


def test_condensed_nodes_beat_random_ones():
    graph = stochastic_blocks(600, features=16, signal=0.6, labelled=0.2, homophily=0.9)
    judge = dataclasses.replace(QUICK, networks=1, epochs=60, network_options={"width": 16})

    def reached(recipe):
        return evaluate_graph(dd.distill(recipe, graph, seed=0), graph, judge, seed=1).mean

    condensed = reached(GCond(nodes=8, steps=30, inner=5, structure="none", feature_lr=0.01))
    assert condensed > reached(CoresetNodes(nodes=8)) + 0.05


def test_the_whole_graph_trains_networks_too():
    graph = stochastic_blocks(60, classes=3, features=5, signal=3.0, homophily=0.95, labelled=0.3)
    found = whole_graph_scores(graph, dataclasses.replace(QUICK, epochs=40, lr=0.05), seed=1)
    assert len(found) == 2
    assert min(found) > 0.6


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: SFGC(span=90), "last must be at most"),
        (lambda: SFGC(label_lr=-1.0), "label_lr"),
        (lambda: GCDM(width=0), "width"),
        (lambda: GCSNTK(ridge=0.0), "ridge"),
        (lambda: CoresetNodes(choice="best"), "choice must be one of"),
        (lambda: graph_network("gin", 5, 3, dd.generator(0)), "network must be one of"),
        (lambda: graph_network("gcn", 5, 3, dd.generator(0), width=0), "width"),
        (lambda: dd.distill(GCond(nodes=2), small_graph(), seed=0), "nodes"),
        (lambda: dd.distill(GCond(), small_graph(), validation=object()), "validation must be left out for graphs"),
        (lambda: dd.distill(CoresetNodes(), small_graph(), budget=1.0), "budget must be left out for nodes"),
    ],
)
def test_bad_settings_are_refused(act, message):
    with pytest.raises(ValueError, match=message):
        act()


def test_a_set_of_another_graph_is_refused():
    distilled = dd.distill(PropagatedNodes(nodes=4), stochastic_blocks(200, features=7), seed=0)
    with pytest.raises(ValueError, match="distilled must have 5 features, got 7"):
        evaluate_graph(distilled, small_graph(), seed=0)
