"""Networks of one's own: cached experts, repeatable runs, batches of one image."""

from __future__ import annotations

import copy
import dataclasses
import itertools

import pytest
import torch
from own_networks import REPEATED, Dropped, Plain
from torch import nn
from trained_runs import TRAINING

import ddsdk as dd
from ddsdk.foundation import generator
from ddsdk.networks import function_digest
from ddsdk.running import Run
from ddsdk.students import TrainedRuns
from ddsdk.training import InnerSGD, TrainingProtocol, constant_memory, epoch, full_graph, train, train_steps


class Scaled(Plain):
    """The modules and weights of `Plain` with another forward pass."""

    def forward(self, x):
        return super().forward(2 * x)


class Halved(Plain):
    """`Plain` with another forward pass in training mode alone."""

    def forward(self, x):
        return super().forward(x / 2 if self.training else x)


def of(kind):
    """Return a factory whose generator goes unused: the weights come from the global generator."""
    return lambda rng: kind()


def counting():
    """Return a factory whose networks differ although their generators are equal."""
    calls = itertools.count(1)

    def make(rng):
        network = Plain()
        with torch.no_grad():
            network.out.bias.fill_(next(calls))
        return network

    return make


def names(real, make, folder):
    runs = TrainedRuns(real, make, dataclasses.replace(TRAINING, epochs=1), count=1, seed=0, folder=folder)
    list(runs.make())
    return {path.name for path in folder.iterdir()}


def renamed(kind, name):
    """Return a class whose modules print like another's."""
    return type(name, (kind,), {})


def test_another_forward_pass_of_equal_modules_and_weights_has_its_own_experts(tiny, tmp_path):
    found = [
        names(tiny, of(renamed(kind, "Net")), tmp_path / kind.__name__) for kind in (Plain, Scaled, Halved, Dropped)
    ]
    assert len(set.union(*found)) == 4
    assert names(tiny, of(renamed(Plain, "Net")), tmp_path / "Plain") == found[0]


def test_a_digest_does_not_depend_on_threads_layout_or_the_callers_state():
    network = dd.network_factory("convnet", (3, 16, 16), 3, width=16, norm="batch")(generator(0))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    digests = {function_digest(network, (3, 16, 16))}
    torch.set_num_threads(2)
    torch.manual_seed(3)
    digests |= {function_digest(network.eval(), (3, 16, 16))}
    digests |= {function_digest(network.to(memory_format=torch.channels_last), (3, 16, 16))}
    assert len(digests) == 1
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def sets(recipe, real, make, seeds=(1, 2)):
    """Return the images of runs of one seed under different states of the global generator."""
    images = []
    for seed in seeds:
        torch.manual_seed(seed)
        images.append(dd.distill(recipe, real, make_student=make, seed=0).images)
        assert torch.initial_seed() == seed
    return images


@pytest.mark.parametrize("name", REPEATED)
def test_dropout_and_pytorchs_initial_weights_give_one_set_for_one_seed(name, tiny, tmp_path, monkeypatch):
    recipe = dd.RECIPES[name](ipc=1, **REPEATED[name])
    first, second = sets(recipe, tiny, of(Dropped))
    assert torch.equal(first, second)
    # Experts of their own, so that equal sets do not come from equal files alone.
    monkeypatch.setenv("DDSDK_CACHE", str(tmp_path / "again"))
    assert torch.equal(sets(recipe, tiny, of(Dropped), seeds=[3])[0], first)


def test_dropout_draws_anew_in_every_step(tiny):
    recipe = dd.DC(ipc=1, students=1, steps_per_student=2, student_epochs=1, real_batch=4)
    assert not torch.equal(sets(recipe, tiny, of(Dropped))[0], sets(recipe, tiny, of(Plain))[0])
    run = Run(recipe, tiny, make_student=of(Dropped), seed=0)
    assert len({step.loss for step in run}) == 2


def test_a_run_with_dropout_goes_on_bit_for_bit(tiny):
    recipe = dd.DC(ipc=1, students=1, steps_per_student=3, student_epochs=1, real_batch=4)

    def start():
        return Run(recipe, tiny, make_student=of(Dropped), seed=0)

    straight, first, second = start(), start(), start()
    losses = [step.loss for step in straight]
    next(first)
    torch.manual_seed(7)
    second.load_state_dict(first.state_dict())
    assert [step.loss for step in second] == losses[1:]


def test_an_evaluation_with_dropout_has_one_score(tiny):
    scores = set()
    for seed in (1, 2):
        torch.manual_seed(seed)
        network = Dropped()
        network.load_state_dict({name: torch.ones_like(value) / 7 for name, value in network.state_dict().items()})
        list(train(network, tiny.batch(torch.arange(8)), TrainingProtocol(epochs=2, batch_size=4), generator(0)))
        scores.add(float(network.out.weight.detach().sum()))
    assert len(scores) == 1


def test_replayed_steps_draw_what_they_drew():
    weights, x = torch.ones(40), torch.rand(40, generator=generator("x")).requires_grad_()

    def loss(k, w, inputs):
        return (nn.functional.dropout(w * inputs[0], 0.5) - 1).square().sum()

    def gradient(unroll):
        torch.manual_seed(5)
        *_, end = unroll(loss, weights, [x], torch.tensor(0.1), steps=3, optimizer=InnerSGD())
        return torch.autograd.grad(end.sum(), x)[0]

    torch.testing.assert_close(gradient(constant_memory), gradient(full_graph))


def test_a_factory_of_different_networks_for_one_generator_is_refused(tiny, tmp_path):
    rule = r"^make_student must give equal weights for equal generators.*got .*out\.bias differ"
    with pytest.raises(ValueError, match=rule):
        dd.distill(dd.DM(ipc=1, steps=1, real_batch=4), tiny, make_student=counting())
    with pytest.raises(ValueError, match=rule):
        names(tiny, counting(), tmp_path)


# BatchNorm


def test_a_last_batch_of_one_image_joins_the_batch_before_for_batchnorm_alone(tiny):
    batch, plain = tiny.batch(torch.arange(9)), dd.Augmentation("")

    def sizes(n, size, join):
        part = dd.data.Batch(batch.x[:n], batch.y[:n])
        return [len(x) for x, _ in epoch(part, size, plain, generator(0), join_single=join)]

    assert sizes(9, 4, True) == [4, 5]
    assert sizes(9, 4, False) == [4, 4, 1]
    assert sizes(9, 3, True) == [3, 3, 3] and sizes(8, 3, True) == [3, 3, 2]
    assert sizes(1, 4, True) == [1]


def test_a_network_whose_batchnorm_sees_one_value_for_each_image_trains_on_any_number(tiny):
    network = nn.Sequential(nn.Flatten(), nn.Linear(288, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    protocol = TrainingProtocol(epochs=1, batch_size=4)
    assert list(train(network, tiny.batch(torch.arange(9)), protocol, generator(0))) == [1]
    train_steps(network, tiny.batch(torch.arange(9)), protocol, 3, generator(0))
    runs = TrainedRuns(
        tiny, lambda rng: copy.deepcopy(network), dataclasses.replace(TRAINING, batch_size=19), count=1, seed=0
    )
    assert torch.isfinite(runs.weights(0, -1)).all()
