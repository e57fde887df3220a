"""Ridge regression, label solve and kernels against normal equations, least squares and wide networks."""

from __future__ import annotations

import math
import warnings
from itertools import pairwise

import pytest
import torch
from torch.autograd import gradcheck

import ddsdk as dd
from ddsdk.training import (
    FullyConnectedNTK,
    KernelMachine,
    LinearKernel,
    Ridge,
    images_of_weights,
    kernel_machine,
    linear_weights,
    solve_labels,
)
from ddsdk.training.ridge import solve

DOUBLE = torch.float64
RULES = ("trace", "absolute", "count")


def normal(*shape, key="x"):
    return torch.randn(*shape, generator=dd.generator(key), dtype=DOUBLE)


def added(rule, strength, gram):
    mean = sum(float(gram[i, i]) for i in range(len(gram))) / len(gram)
    return strength * {"trace": mean, "absolute": 1.0, "count": len(gram)}[rule]


@pytest.mark.parametrize("rule", RULES)
def test_the_solution_is_that_of_the_normal_equations(rule):
    x, y, new = normal(7, 5), normal(7, 3, key="y"), normal(4, 5, key="new")
    gram, ridge = x @ x.T, Ridge(rule=rule, strength=0.03)
    amount = added(rule, 0.03, gram)
    weights = torch.linalg.inv(x.T @ x + amount * torch.eye(5, dtype=DOUBLE)) @ x.T @ y
    found = solve(gram, y, ridge)
    assert found.jitter == 0
    assert float(ridge.amount(gram)) == pytest.approx(amount, rel=1e-14)
    torch.testing.assert_close(new @ x.T @ found.values, new @ weights, rtol=1e-10, atol=1e-12)


def test_single_precision_is_solved_in_double():
    x = normal(6, 9).float()
    gram, y = x @ x.T, normal(6, 2, key="y").float()
    found = solve(gram, y, Ridge(strength=1e-3)).values
    amount = added("trace", 1e-3, gram.double()) * torch.eye(6, dtype=DOUBLE)
    assert found.dtype == DOUBLE
    torch.testing.assert_close(found, torch.linalg.inv(gram.double() + amount) @ y.double())


@pytest.mark.parametrize("rule", RULES)
def test_gradients_of_the_solution_are_finite_differences(rule):
    ridge = Ridge(rule=rule, strength=0.1)

    def function(x, y):
        return solve(x @ x.T, y, ridge).values

    assert gradcheck(function, (normal(4, 6).requires_grad_(), normal(4, 2, key="y").requires_grad_()))


def test_a_singular_matrix_gets_a_jitter_that_is_told():
    x = normal(3, 5).repeat(2, 1)
    y = normal(3, 2, key="y").repeat(2, 1)
    with pytest.warns(UserWarning, match="singular to working precision: 1e-.* of its mean was added to its diagonal"):
        found = solve(x @ x.T, y, Ridge(strength=0.0))
    unit = float((x @ x.T).diagonal().mean())
    assert 0 < found.jitter <= 1e-4 * unit
    torch.testing.assert_close(x @ x.T @ found.values, y, rtol=1e-5, atol=1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert solve(x @ x.T, y, Ridge(strength=1e-6)).jitter == 0


def test_what_is_no_gram_matrix_is_refused():
    bad = torch.diag(torch.tensor([1.0, -1.0]))
    with pytest.raises(ValueError, match=r"^gram must be positive semi-definite .* raise the ridge$"):
        solve(bad, torch.ones(2, 1), Ridge())
    with pytest.raises(ValueError, match=r"^gram must be a square matrix, got \(2, 3\)$"):
        solve(torch.ones(2, 3), torch.ones(2, 1), Ridge())
    with pytest.raises(ValueError, match=r"^targets must have 2 rows, got \(3, 1\)$"):
        solve(torch.eye(2), torch.ones(3, 1), Ridge())
    with pytest.raises(ValueError, match=r"^rule must be one of trace, absolute, count, got 'tr'$"):
        Ridge(rule="tr")
    for strength in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match=r"^strength must be finite and not negative"):
            Ridge(strength=strength)


def test_what_is_not_finite_stays_so():
    gram = torch.eye(2).requires_grad_()
    found = solve(gram * torch.inf, torch.ones(2, 1), Ridge()).values
    assert bool(found.isnan().all())


@pytest.mark.parametrize("size", [3, 20])
def test_solved_labels_are_those_of_least_squares(size):
    x, new, wanted = normal(6, 8), normal(20, 8, key="new"), normal(20, 3, key="t")
    gram, cross, ridge = x @ x.T, new @ x.T, Ridge(strength=0.01)
    inverse = torch.linalg.inv(gram + added("trace", 0.01, gram) * torch.eye(6, dtype=DOUBLE))
    exact = torch.linalg.lstsq(cross @ inverse, wanted).solution
    parts = list(zip(cross.split(size), wanted.split(size), strict=True))
    torch.testing.assert_close(solve_labels(gram, parts, ridge).values, exact, rtol=1e-9, atol=1e-9)
    with pytest.raises(ValueError, match=r"^pieces must not be empty, got none$"):
        solve_labels(gram, [], ridge)


def tangents(x, depth, width, rng, w=2**0.5, b=0.1):
    """The gradients of one wide network's output at each input, as rows, in the tangent parametrisation."""
    sizes = [x.shape[1], *[width] * depth, 1]
    weights = [torch.randn(o, i, generator=rng, dtype=DOUBLE).requires_grad_() for i, o in pairwise(sizes)]
    biases = [torch.randn(o, generator=rng, dtype=DOUBLE).requires_grad_() for o in sizes[1:]]
    h = x
    for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        h = w * (h.relu() if i else h) @ weight.T / math.sqrt(weight.shape[1]) + b * bias
    rows = [torch.autograd.grad(out, [*weights, *biases], retain_graph=True) for out in h.flatten()]
    return torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_the_kernel_is_that_of_a_wide_network(depth):
    x = normal(4, 6)
    exact = FullyConnectedNTK(depth=depth)(x, x)
    found = torch.zeros(4, 4, dtype=DOUBLE)
    for i in range(8):
        rows = tangents(x, depth, 600, dd.generator("wide", i))
        found += rows @ rows.T / 8
    torch.testing.assert_close(found, exact, rtol=0.05, atol=0.02 * float(exact.diagonal().mean()))


def test_options_of_the_kernel_reach_it():
    x, kernel = normal(3, 1, 2, 2), FullyConnectedNTK(depth=2, weight_std=1.0, bias_std=0.3)
    rows = torch.zeros(3, 3, dtype=DOUBLE)
    for i in range(8):
        one = tangents(x.flatten(1), 2, 500, dd.generator("wide", i), w=1.0, b=0.3)
        rows += one @ one.T / 8
    torch.testing.assert_close(rows, kernel(x, x), rtol=0.1, atol=0.02)


@pytest.mark.parametrize("depth", [1, 3])
def test_gradients_of_the_kernel_are_finite_differences(depth):
    inputs = (normal(3, 4).requires_grad_(), normal(2, 4, key="z").requires_grad_())
    assert gradcheck(FullyConnectedNTK(depth=depth), inputs)
    assert gradcheck(lambda x: FullyConnectedNTK(depth=depth)(x, x), inputs[:1])


def test_images_that_are_parallel_or_empty_have_finite_gradients():
    x = normal(2, 4)
    x = torch.cat([x, 2 * x[:1], -x[:1], torch.zeros(1, 4, dtype=DOUBLE)]).requires_grad_()
    kernel = FullyConnectedNTK(depth=2, bias_std=0.0)(x, x)
    (gradient,) = torch.autograd.grad(kernel.sum(), x)
    assert bool(kernel.isfinite().all())
    assert bool(gradient.isfinite().all())
    # Without biases the network is homogeneous, and so is its kernel.
    torch.testing.assert_close(kernel[0, 2], 2 * kernel[0, 0])


def test_a_kernel_is_positive_semi_definite():
    x = normal(12, 5)
    for kernel in (FullyConnectedNTK(depth=3), LinearKernel(bias=0.5)):
        assert float(torch.linalg.eigvalsh(kernel(x, x)).min()) > -1e-12


def test_a_machine_is_what_its_options_say():
    x, y, new = normal(5, 1, 2, 3), normal(5, 2, key="y"), normal(3, 1, 2, 3, key="new")
    machine = kernel_machine("linear", rule="count", ridge=0.2, bias=0.5)
    gram = x.flatten(1) @ x.flatten(1).T / 6 + 0.25
    cross = new.flatten(1) @ x.flatten(1).T / 6 + 0.25
    exact = cross @ torch.linalg.inv(gram + 0.2 * 5 * torch.eye(5, dtype=DOUBLE)) @ y
    torch.testing.assert_close(machine.fitted(x, y)(new), exact)
    with pytest.raises(
        ValueError,
        match=r"^kernel must be one of fc-ntk, linear, random-convnets, got 'fcntk'; did you mean 'fc-ntk'\?$",
    ):
        kernel_machine("fcntk")
    with pytest.raises(TypeError, match=r"^options of kernel 'linear' must be among .*'bias'\], got 'depth'$"):
        kernel_machine("linear", depth=2)
    with pytest.raises(ValueError, match=r"^depth must be at least 1, got 0$"):
        kernel_machine("fc-ntk", depth=0)


@pytest.mark.parametrize("rule", RULES)
def test_linear_weights_are_the_regression_of_the_linear_kernel(rule):
    x, y, new = normal(9, 1, 2, 3), normal(9, 2, key="y"), normal(4, 1, 2, 3, key="new")
    ridge = Ridge(rule=rule, strength=0.05)
    weights = linear_weights(zip(x.split(4), y.split(4), strict=True), ridge)
    torch.testing.assert_close(
        new.flatten(1) @ weights, KernelMachine(kernel=LinearKernel(), ridge=ridge).fitted(x, y)(new)
    )
    with pytest.raises(ValueError, match=r"^parts must not be empty, got none$"):
        linear_weights([], ridge)


@pytest.mark.parametrize("ipc", [1, 2])
def test_images_have_the_weights_that_they_were_made_for(ipc):
    weights, near = normal(12, 3), normal(3 * ipc, 3, 4, key="near")
    labels = torch.eye(3, dtype=DOUBLE).repeat_interleave(ipc, 0)
    images = images_of_weights(weights, labels, near)
    torch.testing.assert_close(torch.linalg.lstsq(images, labels).solution, weights, rtol=1e-8, atol=1e-9)
    cosines = torch.nn.functional.cosine_similarity(torch.linalg.pinv(images) @ labels, weights, dim=0)
    assert float(cosines.min()) > 0.99


def test_images_that_cannot_be_are_refused():
    labels = torch.eye(3, dtype=DOUBLE).repeat_interleave(2, 0)
    with pytest.raises(ValueError, match=r"^ipc must make at most 5 images in all, got 6$"):
        images_of_weights(normal(5, 3), labels, normal(6, 5))
    with pytest.raises(ValueError, match=r"^near must hold linearly independent images"):
        images_of_weights(normal(9, 3), labels, torch.ones(6, 9, dtype=DOUBLE))
