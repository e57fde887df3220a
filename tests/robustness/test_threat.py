"""Threats: the ball and the range are right by construction, and asserted."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import ddsdk as dd
from ddsdk_integrations.robustness import BrokenAttackError, Threat, UnitModel

THREATS = [Threat("linf", 0.1), Threat("linf", 2.0), Threat("l2", 0.5), Threat("l2", 9.0)]


def images(n=4, seed=0, scale=1.0, shift=0.0):
    x = torch.rand(n, 2, 5, 3, generator=dd.generator("threat", seed), dtype=torch.float64)
    return scale * x + shift


@pytest.mark.parametrize("threat", THREATS, ids=lambda t: t.label)
@given(seed=st.integers(0, 50), far=st.sampled_from([1e-3, 0.3, 1.0, 50.0]))
def test_projection_keeps_radius_and_range(threat, seed, far):
    x = images(seed=seed)
    moved = x + far * torch.randn(x.shape, generator=dd.generator("far", seed), dtype=x.dtype)
    found = threat.project(moved, x)
    assert float(threat.size(found - x).max()) <= threat.radius * (1 + 1e-12)
    assert float(found.min()) >= 0
    assert float(found.max()) <= 1
    assert torch.allclose(threat.project(found, x), found, atol=1e-12)
    assert threat.check(found, x) is found


@pytest.mark.parametrize("threat", THREATS, ids=lambda t: t.label)
def test_projection_is_the_plain_clamp_pixel_by_pixel(threat):
    x = images()
    moved = x + torch.randn(x.shape, generator=dd.generator("far"), dtype=x.dtype)
    found = threat.project(moved, x)
    for n in range(len(x)):
        change = (moved[n] - x[n]).flatten().tolist()
        length = math.sqrt(sum(v * v for v in change))
        for at, (value, before) in enumerate(zip(change, x[n].flatten().tolist(), strict=True)):
            if threat.norm == "linf":
                kept = max(-threat.radius, min(threat.radius, value))
            else:
                kept = value * min(1.0, threat.radius / length)
            wanted = max(0.0, min(1.0, before + kept))
            assert float(found[n].flatten()[at]) == pytest.approx(wanted, abs=1e-12)


def test_what_lies_outside_of_the_range_is_not_pulled_into_it():
    threat, x = Threat("linf", 0.1), images(scale=3.0, shift=-1.0)
    assert torch.equal(threat.project(x, x), x)
    found = threat.project(x + 5, x)
    assert float(threat.size(found - x).max()) <= 0.1 + 1e-12
    outside = x > 1
    assert torch.equal(found[outside], x[outside])


@pytest.mark.parametrize("threat", THREATS, ids=lambda t: t.label)
def test_directions_have_size_one_and_rise_fastest(threat):
    gradient = torch.randn(3, 2, 4, 4, generator=dd.generator("gradient"), dtype=torch.float64)
    step = threat.direction(gradient)
    assert torch.allclose(threat.size(step), torch.ones(3, dtype=torch.float64))
    gain = (step * gradient).flatten(1).sum(1)
    for i in range(20):
        other = torch.randn(gradient.shape, generator=dd.generator("other", i), dtype=torch.float64)
        other = other / threat.size(other).view(-1, 1, 1, 1)
        assert ((other * gradient).flatten(1).sum(1) <= gain + 1e-12).all()


@pytest.mark.parametrize("threat", THREATS, ids=lambda t: t.label)
def test_random_starts_fill_the_ball(threat):
    x = torch.full((200, 1, 4, 4), 0.5)
    start = threat.check(threat.random_start(x, dd.generator("start")), x)
    sizes = threat.size(start - x)
    assert float(sizes.max()) > 0.9 * min(threat.radius, 0.5 if threat.norm == "linf" else 1.0)
    assert float(sizes.std()) > 0 or threat.radius == 2.0
    assert torch.equal(start, threat.random_start(x, dd.generator("start")))


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (lambda x: x + 0.3, "stay within linf 0.1, got a change of 0.3"),
        (lambda x: x - 1.0, r"unit range \[0, 1\]"),
        (lambda x: x * float("nan"), "finite"),
        (lambda x: x[:, :1], "shape"),
    ],
)
def test_an_attack_that_breaks_its_bounds_is_an_error(broken, words):
    x = torch.full((2, 2, 3, 3), 0.5)
    with pytest.raises(BrokenAttackError, match=words):
        Threat("linf", 0.1).check(broken(x), x)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Threat("l1", 0.1), "norm must be one of"),
        (lambda: Threat("linf", 0.0), "radius must be positive"),
        (lambda: Threat("l2", float("nan")), "radius must be positive"),
    ],
)
def test_refusals(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_models_take_the_unit_range_and_normalise_by_themselves(tiny, make_student):
    network = make_student(dd.generator("n"))
    model = UnitModel(network, tiny.preprocess)
    unit = tiny.images[:4]
    assert torch.equal(model(unit), network(tiny.batch(torch.arange(4)).x))
    assert not any(p.requires_grad for p in model.parameters())
    with pytest.raises(ValueError, match="x must lie in the unit range"):
        model(tiny.batch(torch.arange(4)).x)
    with pytest.raises(ValueError, match="mode must be False"):
        model.train()
    assert not model.training
