"""Triggers that follow the networks of a run."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import ddsdk as dd
from ddsdk.foundation import derive
from ddsdk.networks import Network
from ddsdk.students import TrainOnSynthetic
from ddsdk_integrations.robustness.backdoor import (
    DoorpingSettings,
    DoorpingStudents,
    TrainedVictims,
    Trigger,
    distil_doorping,
    optimised_trigger,
    poison,
)

QUICK = DoorpingSettings(aim="label", steps=2, every=2, images=8, stop_below=0.0)


@pytest.fixture(scope="module")
def real():
    train = dd.load("digits")
    keep = torch.cat([train.index_of_class(c)[:20] for c in range(10)])
    return train.subset(keep)


def make(real):
    return dd.network_factory("convnet", real.image_shape, 10, width=4)


def poisoned_of(real):
    trigger = Trigger.corner(real.image_shape, 2, dd.generator("colours"))
    return poison(real, trigger, target=0, fraction=0.1, rng=dd.generator("poison")), trigger


def victims(real):
    return TrainedVictims(make_student=make(real), update=TrainOnSynthetic(epochs=2))


def stamped_loss(network, poisoned, trigger):
    x = poisoned.data.preprocess(trigger.stamp(poisoned.originals))
    return float(cross_entropy(network(x), torch.zeros(len(x), dtype=torch.int64)).detach())


def test_the_trigger_moves_towards_the_label(real):
    poisoned, trigger = poisoned_of(real)
    network = make(real)(dd.generator("network"))
    settings = dataclasses.replace(QUICK, steps=30, images=20)
    found = optimised_trigger(network, poisoned, trigger, settings, dd.generator(0))
    assert stamped_loss(network, poisoned, found) < stamped_loss(network, poisoned, trigger)
    assert (found.top, found.left, found.patch.shape) == (6, 6, (1, 2, 2))
    assert all(p.grad is None for p in network.parameters())


def seen_neuron():
    """A network whose second feature has the largest weights, and looks at the last pixel alone."""
    body = nn.Sequential(nn.Flatten(), nn.Linear(64, 3, bias=False))
    with torch.no_grad():
        body[1].weight.zero_()
        body[1].weight[0, 0], body[1].weight[1, 63], body[1].weight[2, 5] = 1.0, -4.0, 1.0
    return Network(body, nn.Linear(3, 10))


def test_the_neuron_with_the_largest_weights_is_raised_to_a_multiple(real):
    unit = real.with_preprocess(dd.Preprocess.unit(1))
    trigger = Trigger(patch=torch.full((1, 2, 2), 0.2), top=6, left=6)
    poisoned = poison(unit, trigger, target=0, fraction=0.1, rng=dd.generator(0))
    settings = DoorpingSettings(factor=2.5, stop_below=1e-6, steps=400)
    found = optimised_trigger(seen_neuron(), poisoned, trigger, settings, dd.generator(0))
    # Its response is -4 times the last pixel; 2.5 times that of 0.2 is reached at 0.5.
    assert float(found.patch[0, 1, 1]) == pytest.approx(0.5, abs=1e-3)
    assert torch.allclose(found.patch[0, 0], torch.full((2,), 0.2))


def test_it_stops_when_the_loss_is_small(real):
    poisoned, trigger = poisoned_of(real)
    settings = dataclasses.replace(QUICK, stop_below=1e9)
    found = optimised_trigger(make(real)(dd.generator(1)), poisoned, trigger, settings, dd.generator(0))
    assert torch.allclose(found.patch, trigger.patch, atol=2e-3)


def recipes():
    return {
        "dm": dd.DM(ipc=1, steps=4, real_batch=4),
        "dc": dd.DC(ipc=1, students=2, steps_per_student=2, student_epochs=1, real_batch=4),
        "idm": dd.IDM(ipc=1, steps=4, real_batch=4),
        "kip": dd.KIP(ipc=1, steps=4, real_batch=40),
    }


@pytest.mark.parametrize("name", recipes())
def test_it_works_with_any_recipe_that_runs_the_loop(real, name):
    poisoned, trigger = poisoned_of(real)
    opened = distil_doorping(
        recipes()[name],
        poisoned,
        trigger,
        settings=QUICK,
        make_student=make(real),
        seed=dd.generator(0),
        victims=victims(real),
    )
    assert not torch.equal(opened.trigger.patch, trigger.patch)
    stamped = poisoned.data.images[poisoned.index]
    assert torch.equal(stamped, opened.trigger.stamp(poisoned.originals))
    assert opened.distilled.provenance["data"]["fingerprint"] == poisoned.data.fingerprint


def test_the_recipes_own_students_are_followed_without_victims(real):
    poisoned, trigger = poisoned_of(real)
    opened = distil_doorping(
        recipes()["dc"], poisoned, trigger, settings=QUICK, make_student=make(real), seed=dd.generator(0)
    )
    assert not torch.equal(opened.trigger.patch, trigger.patch)


def test_students_that_are_no_networks_need_victims(real):
    poisoned, trigger = poisoned_of(real)
    with pytest.raises(TypeError, match="students must be networks, or victims be given"):
        distil_doorping(
            recipes()["kip"], poisoned, trigger, settings=QUICK, make_student=make(real), seed=dd.generator(0)
        )


def test_a_second_round_starts_from_the_first_ones_colours(real):
    def opened(rounds, start):
        poisoned, trigger = poisoned_of(real)
        return distil_doorping(
            recipes()["dm"],
            poisoned,
            start or trigger,
            settings=QUICK,
            make_student=make(real),
            seed=dd.generator(0),
            victims=victims(real),
            rounds=rounds,
        )

    twice = opened(2, None)
    again = opened(1, opened(1, None).trigger)
    assert torch.equal(twice.trigger.patch, again.trigger.patch)
    assert torch.equal(twice.distilled.images, again.distilled.images)


def test_networks_that_train_first_see_the_trigger_with_which_the_round_starts(real, monkeypatch, tmp_path):
    """Their files are named by the data: other images below the same name would spoil later runs."""
    recipe = dd.MTT(ipc=1, steps=3, student_steps=2, experts=3, expert_epochs=2, augmentation="")
    settings = dataclasses.replace(QUICK, steps=30, every=1)
    monkeypatch.setenv("DDSDK_CACHE", str(tmp_path / "doorping"))
    poisoned, trigger = poisoned_of(real)
    how = {"settings": settings, "make_student": make(real), "victims": victims(real)}
    distil_doorping(recipe, poisoned, trigger, seed=dd.generator(0), **how)
    experts = []
    for folder in ("doorping", "alone"):
        monkeypatch.setenv("DDSDK_CACHE", str(tmp_path / folder))
        fresh, _ = poisoned_of(real)
        rng = derive(dd.generator(0), "plan")
        runs = recipe.runs(fresh.data, make_student=make(real), rng=rng)
        assert len(runs.missing) == (0 if folder == "doorping" else 3)
        experts.append([runs.weights(i, -1) for i in range(3)])
    assert all(torch.equal(one, two) for one, two in zip(*experts, strict=True))


def test_the_usual_networks_are_those_of_the_recipe_and_a_seed_is_a_root(real):
    found = []
    for seed in (3, dd.generator(3)):
        poisoned, trigger = poisoned_of(real)
        found.append(distil_doorping(recipes()["dc"], poisoned, trigger, settings=QUICK, seed=seed))
    assert torch.equal(found[0].distilled.images, found[1].distilled.images)
    assert torch.equal(found[0].trigger.patch, found[1].trigger.patch)
    assert found[0].distilled.provenance["student"]["network"] == "convnet"


@pytest.mark.parametrize("name", ["dm", "dc"])
def test_a_run_that_is_resumed_goes_on_bit_for_bit(real, name):
    def loop():
        poisoned, trigger = poisoned_of(real)
        plan = recipes()[name].plan(poisoned.data, make_student=make(real), rng=dd.generator("plan"))
        students = DoorpingStudents(
            plan.students, poisoned=poisoned, trigger=trigger, settings=QUICK, victims=victims(real)
        )
        plan = dataclasses.replace(plan, students=students)
        return dd.Distillation(plan, poisoned.data, rng=dd.generator("steps")), poisoned, students

    whole, data, trigger = loop()
    for _ in whole:
        pass
    first, *_ = loop()
    for _ in range(3):
        next(first)
    second, other, resumed = loop()
    second.load_state_dict(first.state_dict())
    for _ in second:
        pass
    assert torch.equal(trigger.trigger.patch, resumed.trigger.patch)
    assert torch.equal(data.data.images, other.data.images)
    assert torch.equal(whole.plan.syn.detached(dd.generator(0)).x, second.plan.syn.detached(dd.generator(0)).x)


REFUSED = {
    "aim must be": {"aim": "logit"},
    "neurons must be at least 1": {"neurons": 0},
    "steps must be at least 1": {"steps": 0},
    "lr must be positive": {"lr": 0.0},
    "factor must be positive": {"factor": -1.0},
    "stop_below must be finite and not negative": {"stop_below": -1.0},
}


@pytest.mark.parametrize("rule", REFUSED)
def test_refusals(rule):
    with pytest.raises(ValueError, match=rule):
        DoorpingSettings(**REFUSED[rule])


def test_a_network_without_enough_channels_or_layers_is_refused(real):
    poisoned, trigger = poisoned_of(real)
    with pytest.raises(ValueError, match="neurons must be at most the 4"):
        optimised_trigger(make(real)(dd.generator(0)), poisoned, trigger, DoorpingSettings(neurons=5), dd.generator(0))
    with pytest.raises(ValueError, match="network must have a layer of weights"):
        optimised_trigger(nn.Flatten(), poisoned, trigger, DoorpingSettings(), dd.generator(0))
    odd = Network(nn.Sequential(nn.Flatten(), nn.Linear(64, 3), nn.ZeroPad1d(1)), nn.Linear(5, 10))
    with pytest.raises(ValueError, match="network must have features in 3 channels"):
        optimised_trigger(odd, poisoned, trigger, DoorpingSettings(), dd.generator(0))
    with pytest.raises(ValueError, match="rounds must be at least 1"):
        distil_doorping(
            recipes()["dm"], poisoned, trigger, settings=QUICK, make_student=make(real), seed=dd.generator(0), rounds=0
        )
