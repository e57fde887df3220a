"""Structures and the nodes that have them: against slow and obvious versions."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from small_graphs import small_graph
from torch.nn.functional import normalize, one_hot

import ddsdk as dd
from ddsdk.foundation import derive
from ddsdk.running import Run
from ddsdk.synthetic import LeafView, hard_labels
from ddsdk.training import Ridge
from ddsdk_integrations.graph import (
    BernoulliEdges,
    DosCond,
    GCond,
    PairwiseMLP,
    SelfExpressive,
    SyntheticNodes,
    dense_normalised_adjacency,
    normalised_adjacency,
    propagated,
)
from ddsdk_integrations.graph.matching import AlternatingAdam, class_matching
from ddsdk_integrations.graph.recipe import node_classes, start_features
from ddsdk_integrations.graph.structure import RealEdges


def features(m=6, d=5, seed=0):
    return torch.randn(m, d, generator=dd.generator("features", seed))


def plain_pairs(structure, x):
    """Return what the perceptron says of each pair, one long row of both nodes at a time."""
    m = len(x)
    weight = torch.cat([structure.first.weight, structure.second.weight], 1)
    pairs = torch.stack([torch.cat([x[i], x[j]]) for i in range(m) for j in range(m)])
    scores = structure.last(structure.rest(pairs @ weight.T + structure.first.bias)).view(m, m)
    adjacency = torch.zeros(m, m)
    for i in range(m):
        for j in range(m):
            if i != j:
                adjacency[i, j] = torch.sigmoid((scores[i, j] + scores[j, i]) / 2)
    return adjacency


def test_the_factored_perceptron_is_the_plain_one():
    structure = PairwiseMLP(5, width=8, bias=-0.5, rng=dd.generator(3))
    x = features()
    found = structure.adjacency(x, None)
    torch.testing.assert_close(found, plain_pairs(structure, x))
    # What training sees is what an export holds.
    structure.eval()
    torch.testing.assert_close(structure.adjacency(x, None), found)


def test_where_edges_start_is_the_bias():
    low = PairwiseMLP(5, bias=-6.0, rng=dd.generator(3)).adjacency(features(), None)
    high = PairwiseMLP(5, bias=2.0, rng=dd.generator(3)).adjacency(features(), None)
    assert float(low.detach().max()) < 0.1
    assert float(high.detach().sum()) / 30 > 0.6


def test_drawn_edges_are_symmetric_replayed_and_as_likely_as_their_logits_say():
    logits = torch.randn(5, 5, generator=dd.generator(2)) * 2
    edges = BernoulliEdges(logits, temperature=0.01)
    draws = torch.stack([edges.adjacency(features(5), dd.generator("draw", i)).detach() for i in range(800)])
    assert torch.equal(draws, draws.mT)
    assert float(draws.diagonal(dim1=1, dim2=2).abs().max()) == 0
    torch.testing.assert_close(draws.mean(0), edges.probabilities.detach(), atol=0.06, rtol=0)
    again = edges.adjacency(features(5), dd.generator("draw", 7)).detach()
    assert torch.equal(again, draws[7])
    likely = edges.adjacency(features(5), None)
    assert torch.equal(likely, (edges.probabilities > 0.5).float())


@pytest.mark.parametrize("m", [5, 7, 9, 11, 13, 19, 27, 33])
def test_weights_are_symmetric_to_the_last_bit_and_have_no_loops(m):
    logits = torch.randn(2, m, m, generator=dd.generator("logits", m)) * 3
    x = features(m, 4, seed=m)
    edges = BernoulliEdges(logits)
    found = {
        "pairs": PairwiseMLP(4, width=8, bias=-0.5, rng=dd.generator(3)).adjacency(x, None),
        "draw": edges.adjacency(x, dd.generator("draw", m)),
        "likely": edges.adjacency(x, None),
        "probabilities": edges.probabilities,
        "self-expressive": SelfExpressive().adjacency(x, None),
    }
    for name, weights in ((name, w.detach()) for name, w in found.items()):
        assert torch.equal(weights, weights.mT), name
        assert not weights.diagonal(dim1=-2, dim2=-1).any(), name
        assert 0 <= float(weights.min()) < float(weights.max()) <= 1, name


def test_probabilities_are_those_of_the_mean_logit_and_share_its_gradient():
    edges = BernoulliEdges(torch.randn(5, 5, generator=dd.generator(2)))
    s = edges.logits.detach()
    slow, slope = torch.zeros(5, 5), torch.zeros(5, 5)
    weights = torch.randn(5, 5, generator=dd.generator(8))
    for i in range(5):
        for j in range(5):
            if i != j:
                slow[i, j] = 1 / (1 + math.exp(-float(s[i, j] + s[j, i]) / 2))
                # Each order of a pair has half of the gradient of both weights.
                both = float(weights[i, j] + weights[j, i]) / 2
                slope[i, j] = both * float(slow[i, j] * (1 - slow[i, j]))
    torch.testing.assert_close(edges.probabilities.detach(), slow)
    (edges.probabilities * weights).sum().backward()
    torch.testing.assert_close(edges.logits.grad, slope)


DIRECTED = torch.tensor([[0, 0, 3, 2, 1, 4], [1, 2, 0, 1, 4, 2]])


def test_kept_edges_are_exported_as_they_are_and_propagate_from_source_to_target():
    nodes = SyntheticNodes(features(5, 3), RealEdges(DIRECTED), hops=2)
    index, weight = nodes.edges(0.5)
    assert torch.equal(index, DIRECTED)
    assert weight.tolist() == [1] * 6
    found = nodes.decode(torch.arange(5), dd.generator(0))[0].flatten(1)
    torch.testing.assert_close(found, propagated(normalised_adjacency(DIRECTED, 5), nodes.x, 2))


def test_too_many_edges_are_punished():
    edges = BernoulliEdges(torch.zeros(4, 4))
    assert float(edges.excess(0.2).detach()) == pytest.approx(0.3)
    assert float(edges.excess(0.6).detach()) == 0


def test_edges_start_next_to_those_of_a_graph():
    adjacency = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    assert torch.equal(BernoulliEdges.scaled(adjacency).adjacency(features(2), None), adjacency)


def test_self_expression_is_its_closed_form():
    x = features(4, 3)
    unit = normalize(x, dim=1).double()
    gram = unit @ unit.T
    c = torch.linalg.inv(gram + 0.5 * gram.trace() / 4 * torch.eye(4)) @ gram
    by_hand = ((c + c.T) / 2).clamp(0, 1) * (1 - torch.eye(4))
    found = SelfExpressive(Ridge(rule="trace", strength=0.5)).adjacency(x, None)
    torch.testing.assert_close(found.double(), by_hand, atol=1e-5, rtol=1e-4)


def make_syn(structure, m=6):
    classes = torch.arange(m) // (m // 3)
    return dd.SyntheticSet(SyntheticNodes(features(m), structure, hops=2), hard_labels(classes, 3), classes, 3)


STRUCTURES = {
    "none": lambda: None,
    "pairs": lambda: PairwiseMLP(5, width=4, bias=-0.5, rng=dd.generator(3)),
    "bernoulli": lambda: BernoulliEdges(torch.randn(6, 6, generator=dd.generator(4))),
    "self-expressive": SelfExpressive,
}


@pytest.mark.parametrize("name", STRUCTURES)
def test_what_decodes_is_the_propagation_over_the_edges(name):
    syn = make_syn(STRUCTURES[name]())
    nodes = syn.parametrization
    found = syn.at(torch.tensor([4, 1]), dd.generator("draw")).x
    operator = torch.eye(6)
    if nodes.structure is not None:
        operator = dense_normalised_adjacency(nodes.structure.adjacency(nodes.x, dd.generator("draw")))
    torch.testing.assert_close(found.flatten(1), (operator @ operator @ nodes.x)[[4, 1]])


@pytest.mark.parametrize("name", STRUCTURES)
def test_gradients_of_leaves_are_those_of_the_whole_graph(name):
    syn, direct = make_syn(STRUCTURES[name]()), make_syn(STRUCTURES[name]())
    weights = torch.randn(3, 1, 1, 5, generator=dd.generator(9))
    leaves, rng = LeafView(syn), dd.generator("term")
    for c in range(3):
        term = (leaves.of_class(c, 9, derive(rng, c)).x.square() * weights[c]).sum()
        torch.autograd.backward(term, inputs=leaves.inputs)
        leaves.pull_back()
    leaves.finish()
    # All terms saw one draw of the edges: that of the first class.
    whole = direct.parametrization.decode(torch.arange(6), derive(derive(rng, 0), "decode"))[0]
    (whole.square() * weights.repeat_interleave(2, 0)).sum().backward()
    for mine, theirs in zip(syn.parameters(), direct.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)


def test_the_distance_of_gcond_is_that_by_hand():
    graph, recipe = small_graph(), GCond(nodes=7, hops=2, edge_bias=-0.5)
    plan = recipe.plan(graph, make_student=recipe.student(graph), rng=dd.generator("plan"))
    student = plan.students.next(graph.rows(2), plan.syn, dd.generator("student"))
    w, b = student.head.weight.detach(), student.head.bias.detach()
    nodes = plan.syn.parametrization
    operator = dense_normalised_adjacency(nodes.structure.adjacency(nodes.x, None)).detach()
    synthetic, real = operator @ operator @ nodes.x.detach(), graph.propagated(2)

    def gradient(rows, c):
        residue = (rows @ w.T + b).softmax(1) - one_hot(torch.full((len(rows),), c), 3)
        return residue.T @ rows / len(rows)

    classes, counts = plan.syn.classes, torch.bincount(plan.syn.classes)
    expected = 0.0
    for c in range(3):
        g, h = gradient(real[graph.train.labels == c], c), gradient(synthetic[classes == c], c)
        gaps = [1 - float(g[k] @ h[k] / (g[k].norm() * h[k].norm() + 1e-6)) for k in range(3)]
        expected += float(counts[c] / counts.max()) * sum(gaps)
    terms = plan.objective(student, graph.rows(2), LeafView(plan.syn), dd.generator("objective"))
    assert sum(float(t.detach()) for t in terms) == pytest.approx(expected, rel=1e-4)


def test_edges_and_features_take_turns_and_resume_in_them():
    def make():
        first, second = (torch.nn.Parameter(torch.zeros(1)) for _ in range(2))
        return AlternatingAdam([first], [second], lrs=(0.1, 0.1), turns=(2, 3)), first, second

    def go(optimizer, first, second, steps):
        path = []
        for _ in range(steps):
            before = first.item(), second.item()
            for p in (first, second):
                p.grad = torch.ones(1)
            optimizer.step()
            path.append((first.item() != before[0], second.item() != before[1]))
        return path

    whole = make()
    path = go(*whole, 10)
    assert path == [(True, False)] * 2 + [(False, True)] * 3 + [(True, False)] * 2 + [(False, True)] * 3
    part = make()
    assert go(*part, 4) == path[:4]
    again = make()
    again[0].load_state_dict(part[0].state_dict())
    assert go(*again, 6) == path[4:]


@pytest.mark.parametrize("recipe", [GCond(nodes=6, steps=6, outer=2, inner=1), DosCond(nodes=6, steps=6)])
def test_a_run_resumes_bit_for_bit(recipe):
    graph = small_graph()

    whole, half, rest = (Run(recipe, graph, seed=3) for _ in range(3))
    list(whole)
    for _ in range(3):
        next(half)
    rest.load_state_dict(half.state_dict())
    list(rest)
    made = rest.distillation.result.state_dict()
    for name, value in whole.distillation.result.state_dict().items():
        assert torch.equal(value, made[name]), name
    assert rest.distilled().content_id == whole.distilled().content_id


@pytest.mark.parametrize(
    ("sizes", "nodes", "counts"),
    [
        ((20, 20, 20), 6, [2, 2, 2]),
        ((90, 9, 1), 10, [8, 1, 1]),
        ((1000, 1, 1, 1), 4, [1, 1, 1, 1]),
        ((50, 30, 20), 7, [4, 2, 1]),
    ],
)
def test_every_class_has_its_share_and_at_least_one_node(sizes, nodes, counts):
    assert torch.bincount(node_classes(sizes, nodes)).tolist() == counts


def test_fewer_nodes_than_classes_are_refused():
    with pytest.raises(ValueError, match="nodes"):
        node_classes((5, 5, 5), 2)


@pytest.mark.parametrize("start", ["real", "propagated", "means"])
def test_every_node_starts_from_its_own_class(start):
    graph = small_graph()
    classes = torch.tensor([0, 0, 1, 2])
    x = start_features(graph, classes, start, 1, dd.generator(0))
    source = graph.propagated(0 if start == "real" else 1)
    for c in range(3):
        mine = source[graph.train.labels == c]
        low, high = mine.amin(0) - 1e-6, mine.amax(0) + 1e-6
        assert bool(((x[classes == c] >= low) & (x[classes == c] <= high)).all())
    if start == "propagated":
        assert all(bool((source == row).all(1).any()) for row in x)


def test_weights_of_classes_are_their_shares():
    graph = small_graph()
    assert class_matching(graph, 7, "ours", 9).weights == pytest.approx((1.0, 2 / 3, 2 / 3))


@pytest.mark.parametrize(
    ("recipe", "values", "message"),
    [
        (GCond, {"structure": "tree"}, "structure must be one of"),
        (GCond, {"distance": "l1"}, "distance must be one of"),
        (GCond, {"feature_lr": 0.0}, "feature_lr"),
        (GCond, {"threshold": 1.0}, "threshold"),
        (GCond, {"start": "noise"}, "start must be one of"),
        (DosCond, {"density": 2.0}, "density"),
        (DosCond, {"steps": 0}, "steps"),
    ],
)
def test_bad_settings_are_refused(recipe, values, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(recipe(), **values)
