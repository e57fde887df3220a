"""Sharpness-aware steps against the formula in float64, and gradients of batches against autograd."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import ddsdk as dd
from ddsdk.training.fit import batch_gradient, gradient_step
from ddsdk.training.micro import MICRO_BATCH
from ddsdk.training.sharpness import sharpness_aware_step


def network(seed=0, **options):
    settings = {"width": 4, "depth": 1} | options
    return dd.network_factory("convnet", (3, 8, 12), 3, **settings)(dd.generator(seed)).double()


def batch(n=40):
    rng = dd.generator("batch")
    y = torch.rand(n, 3, generator=rng, dtype=torch.float64)
    x = torch.randn(n, 3, 8, 12, generator=rng, dtype=torch.float64)
    return dd.Batch(x, y / y.sum(1, keepdim=True))


def gradient(net, given):
    loss = cross_entropy(net(given.x), given.y)
    return float(loss.detach()), torch.cat([g.flatten() for g in torch.autograd.grad(loss, net.parameters())])


def flat(net):
    return torch.cat([p.detach().flatten() for p in net.parameters()])


def write(net, weights):
    nn.utils.vector_to_parameters(weights, net.parameters())


def slow_direction(net, given, rho, alpha):
    """The formula on one long vector."""
    w = flat(net)
    loss, g = gradient(net, given)
    write(net, w + rho * w.square() * g / (w.abs() * g).norm())
    _, p = gradient(net, given)
    write(net, w)
    unit = p / p.norm()
    orthogonal = g - (g @ unit) * unit
    return loss, p - alpha * orthogonal, orthogonal, p


@pytest.mark.parametrize("rho", [0.01, 0.5])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("pieces", [None, 16])
def test_a_step_is_that_of_the_formula(rho, alpha, pieces, monkeypatch):
    monkeypatch.setitem(MICRO_BATCH, "cpu", pieces)
    net, slow = network(), network()
    sgd = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
    velocity = torch.zeros_like(flat(slow))
    for _ in range(3):
        loss, direction, orthogonal, sharp = slow_direction(slow, batch(), rho, alpha)
        assert abs(float(orthogonal @ sharp)) < 1e-9
        w = flat(slow)
        velocity = 0.9 * velocity + direction + 1e-3 * w
        write(slow, w - 0.1 * velocity)
        found = sharpness_aware_step(net, sgd, batch(), rho=rho, alpha=alpha)
        assert found == pytest.approx(loss, rel=1e-10)
        torch.testing.assert_close(flat(net), flat(slow), rtol=1e-8, atol=1e-10)


def test_a_radius_of_nearly_nothing_is_a_plain_step():
    sharp, plain = network(), network()
    sharpness_aware_step(sharp, torch.optim.SGD(sharp.parameters(), lr=0.1), batch(), rho=1e-9, alpha=0.3)
    gradient_step(plain, torch.optim.SGD(plain.parameters(), lr=0.1), batch())
    torch.testing.assert_close(flat(sharp), flat(plain), rtol=0, atol=1e-8)


def test_frozen_weights_stay_and_weights_without_gradient_do_not_move():
    net = network()
    net.register_parameter("unused", nn.Parameter(torch.ones(2, dtype=torch.float64)))
    frozen = next(net.parameters()).requires_grad_(False)
    kept = frozen.detach().clone()
    before = flat(net)
    sgd = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1)
    sharpness_aware_step(net, sgd, batch(), rho=0.1, alpha=0.3)
    assert torch.equal(frozen, kept)
    assert torch.equal(net.unused, torch.ones(2, dtype=torch.float64))
    assert not torch.equal(flat(net), before)


def test_a_network_at_a_stationary_point_stays_finite():
    net = network()
    with torch.no_grad():
        for p in net.parameters():
            p.zero_()
    even = dd.Batch(batch().x, torch.full((40, 3), 1 / 3, dtype=torch.float64))
    sharpness_aware_step(net, torch.optim.SGD(net.parameters(), lr=0.1), even, rho=0.1, alpha=1.0)
    assert bool(torch.isfinite(flat(net)).all())


@pytest.mark.parametrize("pieces", [None, 1, 7, 64])
def test_the_gradient_of_a_batch_is_that_of_autograd(pieces, monkeypatch):
    monkeypatch.setitem(MICRO_BATCH, "cpu", pieces)
    net = network()
    for p in net.parameters():
        p.grad = torch.ones_like(p)  # what was there before does not count
    loss, wanted = gradient(network(), batch())
    before = flat(net)
    assert batch_gradient(net, batch()) == pytest.approx(loss, rel=1e-12)
    found = torch.cat([p.grad.flatten() for p in net.parameters()])
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)
    assert torch.equal(flat(net), before)


def test_a_batch_norm_network_sees_its_batch_whole(monkeypatch):
    monkeypatch.setitem(MICRO_BATCH, "cpu", 8)
    net = network(norm="batch").train()
    loss, wanted = gradient(network(norm="batch").train(), batch())
    assert batch_gradient(net, batch()) == pytest.approx(loss, rel=1e-12)
    torch.testing.assert_close(torch.cat([p.grad.flatten() for p in net.parameters()]), wanted, rtol=1e-10, atol=1e-12)


def test_sharp_steps_end_in_a_flatter_place(digits, make_digit_student):
    """What it is for: the loss rises less along a step of the radius."""
    train, _ = digits
    x, y = train.batch(torch.arange(256))

    def rise(alpha):
        net = make_digit_student(dd.generator("init"))
        sgd = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
        for _ in range(60):
            if alpha is None:
                gradient_step(net, sgd, dd.Batch(x, y))
            else:
                sharpness_aware_step(net, sgd, dd.Batch(x, y), rho=0.5, alpha=alpha)
        loss, g = gradient(net, dd.Batch(x, y))
        w = flat(net)
        write(net, w + 0.5 * w.square() * g / (w.abs() * g).norm())
        return float(cross_entropy(net(x), y).detach()) - loss

    assert rise(0.0) < rise(None)
