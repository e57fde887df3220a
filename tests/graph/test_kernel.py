"""The structure-based kernel against a dense computation over all nodes, and ridge regression with it."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from small_graphs import small_data, small_graph

import ddsdk as dd
from ddsdk.running import Run
from ddsdk_integrations.graph import (
    GCSNTK,
    GraphData,
    LabelledNodes,
    StructureKernel,
    normalised_adjacency,
    structure_gram_matrices,
    to_data,
)
from ddsdk_integrations.graph.kernel import kernel_scores


def direct(data, x, blocks, layers):
    """Return the kernel over the nodes of the graph and others without edges, every pair of them, (N + M, N + M)."""
    n, m = len(data.x), len(x)
    operator = torch.eye(n + m, dtype=torch.float64)
    operator[:n, :n] = normalised_adjacency(data.edge_index, n).to_dense().double()
    everything = torch.cat([data.x, x]).double()
    covariance = everything @ everything.T
    tangent = covariance.clone()
    for _ in range(blocks):
        covariance, tangent = (operator @ t @ operator.T for t in (covariance, tangent))
        for _ in range(layers):
            scale = covariance.diagonal().sqrt()
            length = scale[:, None] * scale
            angle = (covariance / length).clamp(-1, 1).acos()
            covariance = length * (angle.sin() + (math.pi - angle) * angle.cos()) / math.pi
            tangent = tangent * (math.pi - angle) / math.pi + covariance
    return tangent


@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize("layers", [1, 3])
def test_the_kernel_is_that_over_all_pairs(blocks, layers):
    data, x = small_data(), torch.rand(4, 5, generator=dd.generator("x"))
    kernel = StructureKernel(small_graph().train.graph, blocks=blocks, layers=layers)
    expected = direct(data, x, blocks, layers)
    nodes = torch.tensor([3, 20, 3, 11])
    torch.testing.assert_close(kernel.cross(nodes, x), expected[nodes, 24:], atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(kernel.gram(x), expected[24:, 24:], atol=1e-6, rtol=1e-6)
    # What it keeps of a node does not depend on who was asked about before.
    torch.testing.assert_close(kernel.cross(torch.arange(24), x), expected[:24, 24:], atol=1e-6, rtol=1e-6)


def test_the_kernel_of_a_directed_graph_is_that_over_all_pairs():
    data, x = small_data(), torch.rand(3, 5, generator=dd.generator("x"))
    data.edge_index = data.edge_index[:, data.edge_index[0] < data.edge_index[1]]
    kernel = StructureKernel(GraphData(data).train.graph)
    expected = direct(data, x, 2, 2)
    torch.testing.assert_close(kernel.cross(torch.arange(24), x), expected[:24, 24:], atol=1e-6, rtol=1e-6)


def test_the_kernel_has_the_gradient_of_finite_differences():
    kernel = StructureKernel(small_graph().train.graph)
    x = torch.rand(2, 5, generator=dd.generator("x"), dtype=torch.float64).requires_grad_()
    nodes = torch.tensor([1, 17])
    assert torch.autograd.gradcheck(lambda v: kernel.cross(nodes, v), (x,), atol=1e-6)


def test_labelled_nodes_are_numbers_of_their_class():
    graph = small_graph()
    source = LabelledNodes(graph.val, 3)
    nodes, rows = source.of_class(1, 9, dd.generator(0))
    assert nodes.tolist() == [10, 13]
    assert rows.argmax(1).tolist() == [1, 1]
    assert len(source.mixed(5, dd.generator(0)).x) == 5


def test_scores_are_ridge_regression_by_hand():
    graph, recipe = small_graph(), GCSNTK(nodes=6, steps=2)
    distilled = dd.distill(recipe, graph, seed=0)
    found = kernel_scores(to_data(distilled), graph.test, recipe.protocol(graph))
    expected = direct(small_data(), distilled.images.flatten(1), 2, 2)
    gram = expected[24:, 24:]
    ridged = gram + gram.diagonal().mean() * torch.eye(6)
    by_hand = expected[16:24, 24:] @ torch.linalg.solve(ridged, distilled.labels.double())
    torch.testing.assert_close(found, by_hand, atol=1e-5, rtol=1e-5)


def test_the_objective_falls():
    graph, recipe = small_graph(), GCSNTK(nodes=6, steps=30, label_lr=0.01, ridge=0.1)
    losses = [step.loss for step in Run(recipe, graph)]
    assert losses[-1] < 0.5 * losses[0]


def test_what_the_kernel_cannot_do_is_refused():
    graph = small_graph()
    with pytest.raises(ValueError, match=r"blocks must be one of \[1, 2\], got 3"):
        GCSNTK(blocks=3)
    distilled = dd.distill(GCSNTK(nodes=6, steps=1), graph, seed=0)
    edged = dataclasses.replace(distilled, edge_index=torch.tensor([[0], [1]]), edge_weight=torch.ones(1))
    with pytest.raises(ValueError, match="have no edges for this kernel"):
        kernel_scores(to_data(edged), graph.val, GCSNTK().protocol(graph))
    with pytest.raises(ValueError, match="kernel must be 'structure-ntk'"):
        kernel_scores(to_data(distilled), graph.val, dd.TrainingProtocol(learner="kernel", network="fc-ntk"))


def test_two_sides_compare_as_the_objective_wants():
    kernel = StructureKernel(small_graph().train.graph)
    compared = structure_gram_matrices(kernel, torch.rand(3, 1, 1, 5, generator=dd.generator(1)), torch.tensor([2, 5]))
    assert (tuple(compared.gram.shape), tuple(compared.cross.shape)) == ((3, 3), (2, 3))
