"""The frequencies at which NCFM compares: normal numbers, or those of a network that climbs the distance."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from stored_sets import equal
from tiny_recipes import RECIPE_SETTINGS
from torch.optim import Adam

import ddsdk as dd
from ddsdk.foundation import derive
from ddsdk.objectives import (
    CharacteristicDistance,
    CharacteristicFunction,
    CharacteristicMatch,
    ClassMatch,
    FrequencyLoss,
    FrequencySampler,
)
from ddsdk.recipes.parts import pixel_set
from ddsdk.running.run import Run
from ddsdk.students import AdversarialStudents, FreshStudents, StudentWithAdversary
from ddsdk.training import embeddings

COUNT = 8


@pytest.fixture
def supply(tiny, make_student):
    """A function that makes a supply of students with a sampler that learns."""
    student = make_student(dd.generator(0))
    features = embeddings(student, tiny.batch(torch.arange(1)).x).shape[1]

    def make(hidden=5, lr=0.02):
        update = FrequencyLoss(count=COUNT, distance=CharacteristicDistance())
        return AdversarialStudents(
            FreshStudents(lambda rng: student),
            lambda rng: FrequencySampler(features, hidden, rng=rng),
            update if hidden else None,
            partial(Adam, lr=lr),
        )

    return make


@pytest.fixture
def syn(tiny):
    return pixel_set(tiny, 2, "noise", dd.generator(0))


def step(students, real, syn, i):
    return students.next(real, syn, derive(dd.generator("step"), i))


def test_a_sampler_starts_with_normal_numbers():
    plain = FrequencySampler(3, 0, rng=dd.generator(0))
    learned = FrequencySampler(3, 4, rng=dd.generator(0))
    assert not list(plain.parameters())
    drawn = [s.draw(7, torch.device("cpu"), dd.generator("noise")) for s in (plain, learned)]
    assert drawn[0].shape == (3, 7)
    assert torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[0], torch.randn(7, 3, generator=dd.generator("noise")).T)
    again = FrequencySampler(3, 4, rng=dd.generator(0))
    assert equal(dict(again.state_dict()), dict(learned.state_dict()))
    for name, value in {"features": 0, "hidden": -1}.items():
        with pytest.raises(ValueError, match=f"{name} must be at least"):
            FrequencySampler(**{"features": 3, "hidden": 4} | {name: value}, rng=dd.generator(0))


def test_the_match_is_that_at_the_sampled_frequencies(tiny, supply, syn):
    student = step(supply(hidden=0), tiny, syn, 0)
    match = CharacteristicMatch(count=COUNT, distance=CharacteristicDistance(), real_batch=4)

    def values(key):
        return [float(t.detach()) for t in match(student, tiny, syn, dd.generator(key))]

    # Every network of this test draws the same numbers from the same key.
    frequencies = student.adversary.draw(COUNT, tiny.device, derive(dd.generator("a"), "frequencies"))
    plain = ClassMatch(byproduct=CharacteristicFunction(frequencies), distance=CharacteristicDistance(), real_batch=4)
    key = derive(dd.generator("a"), "match")
    assert values("a") == [float(t.detach()) for t in plain(student.student, tiny, syn, key)]
    assert values("a") == values("a")
    assert values("a") != values("b")


def test_a_lesson_makes_the_functions_differ_more(tiny, supply, syn):
    """Against a sampler that does not learn, on the same numbers, the distance grows."""
    match = CharacteristicMatch(count=COUNT, distance=CharacteristicDistance(), real_batch=64)

    def distance(student):
        terms = match(student, tiny, syn, dd.generator("distance"))
        return sum(float(t.detach()) for t in terms)

    students = supply()
    first = distance(
        StudentWithAdversary(step(supply(hidden=0), tiny, syn, 0).student, step(supply(0), tiny, syn, 0).adversary)
    )
    for i in range(30):
        student = step(students, tiny, syn, i)
    assert distance(student) > 1.05 * first


def test_a_sampler_survives_a_stop_bit_for_bit(tiny, supply, syn):
    straight = supply()
    for i in range(4):
        last = step(straight, tiny, syn, i)
        if i == 1:
            state = copy.deepcopy(straight.state_dict())
    resumed = supply()
    resumed.load_state_dict(state)
    for i in (2, 3):
        found = step(resumed, tiny, syn, i)
    assert equal(dict(found.adversary.state_dict()), dict(last.adversary.state_dict()))


def test_only_a_sampler_can_draw(tiny, make_student, syn):
    network = make_student(dd.generator(0))
    parts = {"count": 2, "distance": CharacteristicDistance()}
    with pytest.raises(TypeError, match="adversary must be a FrequencySampler, got"):
        next(CharacteristicMatch(**parts)(StudentWithAdversary(network, network), tiny, syn, dd.generator(0)))
    with pytest.raises(TypeError, match="adversary must be a FrequencySampler, got"):
        FrequencyLoss(**parts)(network, network, tiny, syn, dd.generator(0))
    for make, field in ((CharacteristicMatch, "real_batch"), (FrequencyLoss, "images")):
        with pytest.raises(ValueError, match=f"{field} must be at least 1, got 0"):
            make(**parts | {field: 0})


def test_ncfm_with_and_without_a_sampler(tiny, make_student):
    found = {}
    for hidden in (0, 4):
        recipe = dd.NCFM(ipc=1, **RECIPE_SETTINGS["ncfm"], sampler=hidden, sampler_lr=0.5)
        run = Run(recipe, tiny, make_student=make_student, seed=0).distillation
        found[hidden] = [s.loss for s in run]
        state = run.state_dict()["students"]
        assert bool(state["rival"]) == bool(hidden)
    # The lesson comes before the step, so the first one differs already.
    assert found[0][0] != found[4][0]
    with pytest.raises(ValueError, match="sampler must be at least 0, got -1"):
        dd.NCFM(ipc=1, sampler=-1)
