"""How a run trains: what a snapshot is, what each setting does, and steps that a plain loop takes as well."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy
from trained_runs import made, opener, rows, same

import ddsdk as dd
from ddsdk.foundation import derive
from ddsdk.students import prepare_student
from ddsdk.training.fit import accuracy
from ddsdk.training.flat import weight_vector
from ddsdk.training.sharpness import sharpness_aware_step


@pytest.fixture
def start(tiny, make_student, tmp_path):
    return opener(tiny, make_student, tmp_path / "runs")


def test_thinning_and_rounding_change_what_is_kept_and_not_how_it_trains(start):
    every = rows(made(start(count=1, epochs=4)))
    assert same(rows(made(start(count=1, epochs=4, thin=2))), every[::2])
    assert same(rows(made(start(count=1, epochs=4, thin=3))), every[::3])
    halved = rows(made(start(count=1, epochs=4, half=True)))
    assert all(h.dtype == torch.float32 for h in halved)
    assert same(halved, [w.half().float() for w in every])


def test_snapshots_of_an_epoch_lie_evenly_in_it(start, tiny, make_student):
    """Pieces of an epoch are what a loop over its thirds gives."""
    plain = {"augmentation": "", "mix": 0.0, "momentum": 0.9, "batch_size": 100}
    runs = start(count=1, epochs=2, per_epoch=3, **plain)
    found = rows(made(runs))
    key = dd.generator(0, "run", 0)
    network = prepare_student(make_student, tiny, key)
    sgd = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    slow = [weight_vector(network)]
    for e in range(2):
        order = torch.randperm(len(tiny), generator=derive(key, "order", e))
        for part in (order[:7], order[7:14], order[14:]):
            x, y = tiny.batch(part)
            sgd.zero_grad()
            cross_entropy(network(x), y).backward()
            sgd.step()
            slow.append(weight_vector(network))
    for a, b in zip(found, slow, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def test_a_run_sees_as_many_images_of_each_class_as_it_is_told(start, tiny, monkeypatch):
    seen = []
    batch = dd.RealData.batch
    monkeypatch.setattr(dd.RealData, "batch", lambda self, i: seen.append(i) or batch(self, i))
    made(start(count=2, images=3, epochs=2))
    shown = torch.cat(seen).view(2, 2, 9)
    pools = []
    for run in shown:
        assert torch.equal(run[0].sort().values, run[1].sort().values)
        assert not torch.equal(run[0], run[1])
        assert tiny.labels[run[0]].bincount().tolist() == [3, 3, 3]
        pools.append(set(run[0].tolist()))
    assert pools[0] != pools[1]
    seen.clear()
    made(start(count=1, images=6, epochs=1))
    assert tiny.labels[torch.cat(seen)].bincount().tolist() == [6, 6, 5]


def test_mixing_sharpness_and_augmentation_reach_the_training(start):
    plain = {"augmentation": "", "mix": 0.0}
    ends = [
        start(count=1, **plain | changes).weights(0, -1)
        for changes in ({}, {"mix": 1.0}, {"augmentation": "crop"}, {"sharpness": 0.5}, {"weight_decay": 1.0})
    ]
    for i, a in enumerate(ends):
        assert not any(torch.equal(a, b) for b in ends[:i])


def test_a_sharpness_aware_run_is_made_of_such_steps(start, tiny, make_student):
    runs = start(count=1, epochs=1, augmentation="", mix=0.0, batch_size=100, sharpness=0.3, surrogate=0.7)
    key = dd.generator(0, "run", 0)
    network = prepare_student(make_student, tiny, key)
    sgd = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    batch = tiny.batch(torch.randperm(len(tiny), generator=derive(key, "order", 0)))
    sharpness_aware_step(network, sgd, batch, rho=0.3, alpha=0.7)
    torch.testing.assert_close(runs.weights(0, -1), weight_vector(network), rtol=0, atol=1e-6)


def test_a_network_of_a_snapshot_computes_what_the_flat_function_does(start, tiny):
    runs = start()
    x = tiny.batch(torch.arange(5)).x
    for snapshot in (0, 1, -1):
        network = runs.network(1, snapshot)
        assert torch.equal(weight_vector(network), runs.weights(1, snapshot))
        torch.testing.assert_close(network(x), runs.flat(runs.weights(1, snapshot), x))
    assert runs.network(1) is not runs.network(1)


def test_batch_norm_trains_with_its_batch_and_is_measured_afterwards(start, digits):
    train, test = digits
    make = dd.network_factory("convnet", train.image_shape, 10, width=8, depth=2, norm="batch")
    plain = {"augmentation": "", "mix": 0.0, "momentum": 0.0}
    runs = start(real=train, make=make, count=1, epochs=10, batch_size=64, lr=0.1, **plain)
    # The flat function takes the steps of the run.
    key = dd.generator(0, "run", 0)
    weights = runs.weights(0, 0).requires_grad_()
    order = torch.randperm(len(train), generator=derive(key, "order", 0))
    for part in torch.split(order, 64):
        x, y = train.batch(part)
        (gradient,) = torch.autograd.grad(cross_entropy(runs.flat(weights, x), y), weights)
        weights = (weights - 0.1 * gradient).detach().requires_grad_()
    torch.testing.assert_close(weights.detach(), runs.weights(0, 1), rtol=0, atol=2e-4)
    network = runs.network(0)
    x, _ = test.batch(torch.arange(len(test)))
    assert accuracy(network, x, test.labels) > 0.8
    # Not by the company that an image keeps.
    network.requires_grad_(False)
    torch.testing.assert_close(network(x[:5]), network(x)[:5], rtol=1e-4, atol=1e-4)
