"""Scores of untrained networks against slow versions of them."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn

import ddsdk as dd
from ddsdk.networks import Network, initialise
from ddsdk_integrations.nas import GradientNorm, NasWot, ParameterCount, SynFlow

SHAPE = (1, 4, 4)


class Small:
    """A network with every kind of layer that matters; built the same from the same generator."""

    def __init__(self, activation=nn.ReLU, norm=True):
        self.activation, self.norm = activation, norm

    def __call__(self, rng):
        layers = [nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2) if self.norm else nn.Identity(), self.activation()]
        body = nn.Sequential(*layers, nn.AvgPool2d(2), nn.Flatten(), nn.Linear(8, 3), self.activation())
        return initialise(Network(body, nn.Linear(3, 3)), rng)


class Chain:
    """Linear layers without activations: every path is a product of weights."""

    def __call__(self, rng):
        layers = [nn.Flatten(), nn.Linear(4, 3, bias=False), nn.Linear(3, 2, bias=False)]
        network = Network(nn.Sequential(*layers), nn.Linear(2, 2))
        return initialise(network, rng)


def test_parameters_are_counted():
    score = ParameterCount()(dd.network_factory("convnet", (3, 32, 32), 10), dd.generator(0))
    assert score == {"score": 320_010.0}


def test_synflow_is_the_sum_over_paths():
    network = Chain()(dd.generator(5)).double()
    a, b, c = (w.detach().abs() for w in (network.body[1].weight, network.body[2].weight, network.head.weight))
    paths = sum(
        float(a[j, i] * b[k, j] * c[m, k]) for i, j, k, m in itertools.product(range(4), range(3), range(2), range(2))
    )
    found = SynFlow((1, 2, 2))(Chain(), dd.generator(5))["score"]
    # Each of the three layers has all of the paths; the last bias starts none that a weight is on.
    assert found == pytest.approx(math.log(3 * paths), abs=1e-12)


def test_synflow_is_that_of_finite_differences_and_passes_norms():
    make, total = Small(), 0.0
    network = make(dd.generator(2)).double()
    network.body[1] = nn.Identity()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.abs_()

        def flow():
            return float(network(torch.ones(1, *SHAPE, dtype=torch.float64)).sum())

        for layer in (network.body[0], network.body[5], network.head):
            for i in range(layer.weight.numel()):
                weight = layer.weight.view(-1)
                kept = float(weight[i])
                weight[i] = kept + 1e-5
                up = flow()
                weight[i] = kept - 1e-5
                total += abs(kept * (up - flow()) / 2e-5)
                weight[i] = kept
    found = SynFlow(SHAPE)(make, dd.generator(2))["score"]
    assert found == pytest.approx(math.log(total), abs=1e-6)


def test_synflow_of_a_dead_network_is_the_least_number():
    class Dead(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(4, 2)

        def forward(self, x):
            return 0 * self.head(x.flatten(1))

    assert SynFlow((1, 2, 2))(lambda rng: Dead(), dd.generator(0)) == {"score": -1e300}


@pytest.mark.parametrize("activation", [nn.ReLU, nn.LeakyReLU, nn.Sigmoid, lambda: nn.ReLU(inplace=True)])
def test_naswot_counts_sides(activation):
    make = Small(activation)
    x = torch.randn(5, *SHAPE, generator=dd.generator("x"))
    network = make(dd.generator(1)).train()
    body = network.body
    with torch.no_grad():
        first = body[1](body[0](x))
        act = activation()
        second = body[5](body[4](body[3](act(first.clone()))))
    sides = torch.cat([first.flatten(1), second], 1) > 0
    kernel = torch.zeros(5, 5, dtype=torch.float64)
    for i, j in itertools.product(range(5), repeat=2):
        kernel[i, j] = sum(bool(a) == bool(b) for a, b in zip(sides[i], sides[j], strict=True))
    found = NasWot(x)(make, dd.generator(1))["score"]
    assert found == pytest.approx(float(torch.logdet(kernel)), abs=1e-9)


def test_naswot_of_copies_is_the_least_number_and_needs_activations():
    x = torch.ones(2, *SHAPE)
    assert NasWot(x)(Small(norm=False), dd.generator(0)) == {"score": -1e300}
    with pytest.raises(ValueError, match="ReLU"):
        NasWot(torch.ones(2, 1, 2, 2))(Chain(), dd.generator(0))
    with pytest.raises(ValueError, match="at least 2"):
        NasWot(x[:1])


def test_gradient_norm_is_that_of_finite_differences():
    def make(rng):
        return Small(nn.Sigmoid)(rng).double()

    rng = dd.generator("batch")
    x = torch.randn(4, *SHAPE, generator=rng, dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 0])
    batch = dd.Batch(x, nn.functional.one_hot(labels, 3).double())
    network, total = make(dd.generator(4)).train(), 0.0
    with torch.no_grad():
        for layer in (network.body[0], network.body[5], network.head):
            weight, squares = layer.weight.view(-1), 0.0
            for i in range(len(weight)):
                kept, losses = float(weight[i]), []
                for step in (1e-6, -1e-6):
                    weight[i] = kept + step
                    losses.append(float(nn.functional.cross_entropy(network(x), labels)))
                weight[i] = kept
                squares += ((losses[0] - losses[1]) / 2e-6) ** 2
            total += math.sqrt(squares)
    assert GradientNorm(batch)(make, dd.generator(4))["score"] == pytest.approx(total, rel=1e-6)


def test_identities_tell_inputs_apart():
    x = torch.randn(3, *SHAPE, generator=dd.generator(0))
    proxies = [NasWot(x), NasWot(x + 1), SynFlow(SHAPE), SynFlow((1, 8, 8)), ParameterCount()]
    proxies += [GradientNorm(dd.Batch(x, torch.eye(3))), GradientNorm(dd.Batch(x, torch.eye(3).flip(0)))]
    assert len({str(sorted(proxy.identity.items())) for proxy in proxies}) == len(proxies)
    assert NasWot(x).identity == NasWot(x.clone()).identity
    assert all(proxy.seconds == 0 for proxy in proxies)
