"""Implicit gradients of RCIG against a long unroll, dense algebra and finite differences."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

import ddsdk as dd
from ddsdk.data.sources import Batch
from ddsdk.objectives import ImplicitRegression
from ddsdk.objectives.implicit import Linearised
from ddsdk.students import SoftplusStudents
from ddsdk.training import LinearKernel, Ridge
from ddsdk.training.flat import FlatNetwork, weight_vector
from ddsdk.training.ridge import conjugate_gradients

DOUBLE = torch.float64
SHAPE = (1, 4, 6)
STRENGTH = 0.05


def normal(*shape, key="x"):
    return torch.randn(shape, generator=dd.generator(key), dtype=DOUBLE)


class Whole:
    """A set of given leaves."""

    def __init__(self, x, y, scale):
        self.x, self.y, self.scale = x, y, scale

    def whole(self, rng):
        return Batch(self.x, self.y)


class Real:
    """The same real batch whatever is asked for."""

    def mixed(self, n, rng):
        return Batch(normal(n, *SHAPE, key="real"), torch.eye(3, dtype=DOUBLE)[torch.arange(n) % 3])


@pytest.fixture(params=["softplus", "sigmoid"])
def network(request):
    """A small smooth network with average pooling."""
    smooth = request.param == "sigmoid"
    options = {"activation": "sigmoid"} if smooth else {}
    make = dd.network_factory("convnet", SHAPE, 3, width=2, depth=1, norm="none", **options)
    if not smooth:
        make = SoftplusStudents(make, 3.0)
    return make(dd.generator("network")).double().requires_grad_(False)


@pytest.fixture(params=["conjugate gradients", "exact"])
def solver(request):
    """Options of the two ways to solve the regression."""
    return {} if request.param == "conjugate gradients" else {"solve_steps": None, "implicit_steps": None}


@pytest.fixture
def leaves():
    return [
        normal(4, *SHAPE).requires_grad_(),
        normal(4, 3, key="y").requires_grad_(),
        torch.tensor(1.3, dtype=DOUBLE, requires_grad=True),
    ]


def objective(**options):
    settings = {"solve_steps": 60, "implicit_steps": 60, "cap": float("inf")} | options
    return ImplicitRegression(ridge=Ridge(rule="count", strength=STRENGTH), real_batch=5, **settings)


def gradients(network, leaves, **options):
    (term,) = objective(**options)(network, Real(), Whole(*leaves), dd.generator("step"))
    return float(term.detach()), torch.autograd.grad(term, leaves)


def jacobian(network, x, graph=True):
    """The gradients of each output in the body's weights, (B K, P), one row after another."""
    flat, weights = FlatNetwork(network), weight_vector(network).requires_grad_()
    size = sum(p.numel() for p in network.body.parameters())
    out = flat(weights, x)
    rows = [torch.autograd.grad(o, weights, create_graph=graph, retain_graph=True)[0] for o in out.flatten()]
    return torch.stack(rows)[:, :size]


def outer(network, leaves, solution):
    """The loss of what `solution(J, h, Y, r)` says the change of the body and the head are."""
    x, y, scale = leaves
    change, head = solution(jacobian(network, x), network.embed(x), y, STRENGTH * len(x))
    new, truth = Real().mixed(5, None)
    found = (jacobian(network, new, graph=False).detach() @ change).view(5, 3) + network.embed(new) @ head
    return cross_entropy(scale * found, truth)


def unrolled(jac, features, y, ridge, steps=6000, rate=0.1):
    """Gradient descent on both at once, from zero, step by step."""
    change, head = torch.zeros(jac.shape[1], dtype=DOUBLE), torch.zeros(features.shape[1], 3, dtype=DOUBLE)
    for _ in range(steps):
        rest = (jac @ change).view_as(y) + features @ head - y
        change = change - rate * (jac.T @ rest.flatten() + ridge * change)
        head = head - rate * (features.T @ rest + ridge * head)
    return change, head


def dense(jac, features, y, ridge):
    """All weights at once, by an ordinary solve."""
    eye = torch.eye(3, dtype=DOUBLE)
    big = torch.cat([jac, torch.stack([torch.kron(row, eye) for row in features[:, None]]).flatten(0, 1)], 1)
    found = torch.linalg.solve(big.T @ big + ridge * torch.eye(big.shape[1], dtype=DOUBLE), big.T @ y.flatten())
    size = jac.shape[1]
    return found[:size], found[size:].view(features.shape[1], 3)


def test_the_gradient_is_that_of_a_solution_by_dense_algebra(network, leaves, solver):
    value, found = gradients(network, leaves, **solver)
    exact = outer(network, leaves, dense)
    assert value == pytest.approx(float(exact.detach()), rel=1e-8)
    for one, two in zip(found, torch.autograd.grad(exact, leaves), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-9)


def test_the_gradient_is_that_of_a_long_unroll(network, leaves):
    _, found = gradients(network, leaves)
    exact = outer(network, leaves, lambda *given: unrolled(*given, steps=1500, rate=0.02))
    for one, two in zip(found, torch.autograd.grad(exact, leaves), strict=True):
        assert float((one - two).norm() / two.norm()) < 0.02


def test_the_gradient_is_a_finite_difference(network, leaves, solver):
    _, found = gradients(network, leaves, **solver)
    for i, leaf in enumerate(leaves):
        direction = normal(*leaf.shape, key=f"direction {i}")
        values = []
        for step in (1e-5, -1e-5):
            moved = [t.detach().clone().requires_grad_() for t in leaves]
            moved[i] = (leaf.detach() + step * direction).requires_grad_()
            values.append(gradients(network, moved, **solver)[0])
        slope = (values[0] - values[1]) / 2e-5
        assert float((found[i] * direction).sum()) == pytest.approx(slope, rel=1e-5)


@pytest.mark.parametrize("limit", ["_EQUATIONS", "_JACOBIAN"])
def test_large_systems_are_solved_by_conjugate_gradients(network, leaves, limit, monkeypatch):
    exact = gradients(network, leaves, solve_steps=None, implicit_steps=None)[0]
    monkeypatch.setattr(f"ddsdk.objectives.implicit.{limit}", 1)
    monkeypatch.setattr("ddsdk.objectives.implicit._STEPS", 1)
    assert abs(gradients(network, leaves, solve_steps=None, implicit_steps=None)[0] - exact) > 1e-4
    monkeypatch.setattr("ddsdk.objectives.implicit._STEPS", 60)
    assert gradients(network, leaves, solve_steps=None, implicit_steps=None)[0] == pytest.approx(exact, rel=1e-8)


def test_without_the_implicit_part_it_is_another_gradient(network, leaves):
    _, whole = gradients(network, leaves)
    _, direct = gradients(network, leaves, cap=0.0)
    assert float((whole[0] - direct[0]).norm() / whole[0].norm()) > 0.05
    _, capped = gradients(network, leaves, cap=1e-3)
    for one, two in zip(capped[:2], direct[:2], strict=True):
        assert float((one - two).norm()) <= 1.001e-3 * float(two.norm())
    assert torch.equal(capped[2], direct[2])


def test_a_linearised_network_has_that_jacobian(network):
    x, linear = normal(3, *SHAPE), Linearised(network)
    exact = jacobian(network, x, graph=False).detach()
    tangent, rows = normal(linear.size, key="t"), normal(3, 3, key="r")
    torch.testing.assert_close(linear.forward(x, tangent).flatten(), exact @ tangent)
    torch.testing.assert_close(linear.backward(x, rows), exact.T @ rows.flatten())
    torch.testing.assert_close(linear.jacobian(x), exact)


def test_conjugate_gradients_solve():
    root, right = normal(6, 6), normal(6, key="b")
    matrix = root @ root.T + torch.eye(6, dtype=DOUBLE)
    exact = torch.linalg.solve(matrix, right)
    torch.testing.assert_close(conjugate_gradients(lambda v: matrix @ v, right, 12), exact)
    errors = [(conjugate_gradients(lambda v: matrix @ v, right, n) - exact) for n in (1, 2, 4, 6)]
    energies = [float(e @ matrix @ e) for e in errors]
    assert energies == sorted(energies, reverse=True)
    assert not conjugate_gradients(lambda v: matrix @ v, 0 * right, 3).any()
    with pytest.raises(ValueError, match=r"^steps must be at least 1, got 0$"):
        conjugate_gradients(lambda v: v, right, 0)


def test_what_cannot_be_linearised_is_refused(leaves):
    with pytest.raises(TypeError, match=r"^student must be a network, got LinearKernel$"):
        next(iter(objective()(LinearKernel(), Real(), Whole(*leaves), dd.generator(0))))
    with pytest.raises(TypeError, match=r"^student must have a body and a method embed, got Linear$"):
        next(iter(objective()(torch.nn.Linear(2, 3), Real(), Whole(*leaves), dd.generator(0))))
    for name in ("real_batch", "solve_steps", "implicit_steps"):
        with pytest.raises(ValueError, match=rf"^{name} must be at least 1"):
            ImplicitRegression(**({"ridge": Ridge(), "real_batch": 1} | {name: 0}))
