"""The loop: steps that can be replayed, stopped and undone."""

from __future__ import annotations

import copy
import dataclasses
import math
from functools import partial

import numpy as np
import pytest
import torch
from stored_sets import equal, stored
from tiny_recipes import RECIPE_SETTINGS

import ddsdk as dd
from ddsdk.foundation.errors import DivergedError
from ddsdk.recipes import RECIPES, IterativeRecipe
from ddsdk.recipes.parts import sgd_on_images
from ddsdk.running import ObjectiveSchedule
from ddsdk.running.checkpoint import pack, unpack
from ddsdk.running.run import Run
from ddsdk.students import AlternatingStudents, FreshStudents, TrainOnReal

STEPS = 6
KEYS = [key for key, kind in RECIPES.items() if issubclass(kind, IterativeRecipe)]


def distillation(key, real, make_student, options=None, **parts):
    """The run of a recipe, longer than its smallest settings: students change on the way."""
    recipe = RECIPES[key](ipc=2, **RECIPE_SETTINGS[key] | (options or {}))
    plan = recipe.plan(real, make_student=make_student, rng=dd.generator("plan"))
    plan = dataclasses.replace(plan, **{"steps": STEPS} | parts)
    return dd.Distillation(plan, real, rng=dd.generator("run"))


@pytest.fixture(params=KEYS)
def start(request, tiny, make_student):
    """A function that starts the same distillation again and again."""
    return lambda: distillation(request.param, tiny, make_student)


@pytest.fixture
def dm_plan(tiny, make_student):
    def make(**parts):
        recipe = dd.DM(ipc=2, steps=6, real_batch=4, augmentation="", image_lr=0.1)
        plan = recipe.plan(tiny, make_student=make_student, rng=dd.generator("plan"))
        return dataclasses.replace(plan, **parts)

    return make


def pixels(run):
    return run.plan.syn.parametrization.images.detach().clone()


def test_the_table_names_every_recipe():
    assert set(RECIPE_SETTINGS) == set(RECIPES)


# In the middle, where most supplies have begun another student; the slow tier stops everywhere.
STOPS = [4, *(pytest.param(n, marks=pytest.mark.slow) for n in range(STEPS + 1) if n != 4)]


@pytest.mark.parametrize("stop", STOPS)
def test_a_run_that_stops_goes_on_bit_for_bit(start, stop):
    straight = start()
    first_stored = stored(straight.plan.syn)
    losses = [step.loss for step in straight]
    assert [straight.index, len(losses), straight.rate_reductions] == [STEPS, STEPS, 0]
    assert not equal(stored(straight.plan.syn), first_stored)
    first = start()
    for _ in range(stop):
        next(first)
    state = unpack(*pack(first.state_dict()))
    second = start()
    second.load_state_dict(state)
    rest = [(step.number, step.loss) for step in second]
    assert rest == list(zip(range(stop + 1, STEPS + 1), losses[stop:], strict=True))
    assert equal(stored(second.plan.syn), stored(straight.plan.syn))
    assert equal(stored(second.result), stored(straight.result))
    assert second.record() == straight.record()
    # Nobody writes to a state that was taken or given.
    again = start()
    again.load_state_dict(state)
    assert [step.loss for step in again] == losses[stop:]


def test_the_global_seed_is_neither_read_nor_changed(start):
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        before = (torch.get_rng_state(), np.random.get_state()[1].copy())  # noqa: NPY002
        run = start()
        for _ in range(4):
            next(run)
        found.append(stored(run.plan.syn))
        assert torch.equal(torch.get_rng_state(), before[0])
        assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002
    assert equal(*found)


def test_another_seed_gives_another_set(tiny, make_student):
    recipe = dd.DM(ipc=1, steps=1, real_batch=4, start="noise")
    one, two = (Run(recipe, tiny, make_student=make_student, seed=dd.generator(s)).distillation for s in (0, 1))
    next(one), next(two)
    assert not torch.equal(pixels(one), pixels(two))


def test_the_generator_is_not_advanced(tiny, make_student, dm_plan):
    rng = dd.generator("run")
    before = rng.get_state()
    list(dd.Distillation(dm_plan(), tiny, rng=rng))
    assert torch.equal(rng.get_state(), before)


def test_a_step_can_be_replayed_alone(tiny, dm_plan):
    """Step 4 depends on the set it meets and on its number, not on how steps 1 to 3 went."""
    straight = dd.Distillation(dm_plan(), tiny, rng=dd.generator("run"))
    states = []
    for _ in straight:
        states.append(copy.deepcopy(straight.state_dict()))
    alone = dd.Distillation(dm_plan(), tiny, rng=dd.generator("run"))
    alone.load_state_dict(states[3])
    next(alone)
    assert torch.equal(pixels(alone), states[4]["syn"]["parametrization.images"])


def test_steps_tell_what_happened(tiny, dm_plan):
    run = dd.Distillation(dm_plan(), tiny, rng=dd.generator("run"))
    assert iter(run) is run
    steps = list(run)
    assert [s.number for s in steps] == [1, 2, 3, 4, 5, 6]
    assert all(s.syn is run.plan.syn for s in steps)
    with pytest.raises(StopIteration):
        next(run)


class Faulty:
    """An objective whose loss is NaN in some calls."""

    def __init__(self, objective, faulty):
        self.objective, self.faulty, self.calls = objective, faulty, 0

    def __call__(self, student, real, syn, rng):
        self.calls += 1
        for term in self.objective(student, real, syn, rng):
            yield term * math.nan if self.faulty(self.calls) else term


def test_a_step_that_fails_once_is_undone_with_the_one_before_it(tiny, dm_plan):
    plan = dm_plan()
    plan = dataclasses.replace(plan, objective=Faulty(plan.objective, lambda call: call == 4))
    run = dd.Distillation(plan, tiny, rng=dd.generator("run"))
    numbers = []
    for step in run:
        numbers.append(step.number)
        assert math.isfinite(step.loss)
        assert step.syn.is_finite()
    assert numbers == [1, 2, 3, 3, 4, 5, 6]
    assert run.rate_reductions == 1
    assert run.state_dict()["optimizer"]["param_groups"][0]["lr"] == 0.05


def test_an_undone_step_is_taken_again_from_the_same_set_with_half_the_rate(tiny, dm_plan):
    still = partial(sgd_on_images, lr=0.1, momentum=0.0)
    plan = dm_plan(make_optimizer=still)
    plan = dataclasses.replace(plan, objective=Faulty(plan.objective, lambda call: call == 3))
    run = dd.Distillation(plan, tiny, rng=dd.generator("run"))
    seen = [pixels(run)]
    for _ in range(3):
        next(run)
        seen.append(pixels(run))
    start, one, two, two_again = seen
    assert not torch.equal(one, start)
    torch.testing.assert_close(two_again - one, (two - one) / 2, rtol=0, atol=1e-6)


def test_a_run_that_keeps_failing_ends_with_the_last_finite_set(tiny, dm_plan):
    plan = dm_plan()
    plan = dataclasses.replace(plan, objective=Faulty(plan.objective, lambda call: call >= 4))
    run = dd.Distillation(plan, tiny, rng=dd.generator("run"), retries=3)
    seen = {0: pixels(run)}
    with pytest.raises(DivergedError, match=r"loss nan\) after 3 reductions") as error:
        for step in run:
            seen[step.number] = pixels(run)
    # Calls 1-3 are steps 1-3. Call 4 fails in step 4 and takes step 3 back; call 5 fails in step 3 itself.
    assert run.rate_reductions == 3
    assert f"the set is that of step {run.index}" in str(error.value)
    assert "Lower image_lr" in str(error.value)
    assert torch.equal(pixels(run), seen[run.index])
    assert run.plan.syn.is_finite()
    assert plan.objective.calls == 3 + 1 + 3


@pytest.mark.parametrize("key", ["dc", "dm"])  # the contract has all of them
def test_an_absurd_learning_rate_leaves_a_finite_set(tiny, make_student, key):
    run = distillation(key, tiny, make_student, {"image_lr": 1e30})
    with pytest.raises(DivergedError, match="after 5 reductions") as error:
        for step in run:
            assert step.syn.is_finite()
    assert run.rate_reductions == 5
    assert error.value.syn is run.plan.syn
    assert run.plan.syn.is_finite()


@pytest.mark.parametrize("key", KEYS)
def test_a_loss_that_is_never_finite_again_leaves_the_last_finite_set(tiny, make_student, key):
    plan = distillation(key, tiny, make_student).plan

    def at(step):
        return Faulty(plan.objective_at(step), lambda _: step >= 3)

    run = distillation(key, tiny, make_student, objective=ObjectiveSchedule(at))
    seen = {0: stored(run.plan.syn)}
    with pytest.raises(DivergedError, match="loss nan") as error:
        for step in run:
            seen[step.number] = stored(run.plan.syn)
    assert error.value.syn is run.plan.syn
    assert equal(stored(run.plan.syn), seen[run.index])
    assert run.record() == {
        "steps_done": run.index,
        "steps_skipped": run.skipped,
        "rate_reductions": 5,
        "diverged": True,
    }


def test_a_rate_that_is_too_large_shrinks_until_the_loss_falls(tiny, dm_plan):
    """The square of a pixel grows under rates above 1; the loss overflows once it is large."""

    def touchy(student, real, syn, rng):
        x, _ = syn.mixed(99, rng)
        yield torch.where(x.abs().amax() > 40, math.inf, 1.0) * x.square().sum()

    optimizer = partial(sgd_on_images, lr=6.0, momentum=0.0)
    run = dd.Distillation(dm_plan(objective=touchy, make_optimizer=optimizer, steps=20), tiny, rng=dd.generator("run"))
    losses = {step.number: step.loss for step in run}
    assert run.rate_reductions == 3
    assert losses[20] < 1e-3 * losses[1]


def test_resuming_remembers_how_often_the_rate_has_shrunk(tiny, dm_plan):
    def start():
        plan = dm_plan()
        return dataclasses.replace(plan, objective=Faulty(plan.objective, lambda call: call == 3))

    straight = dd.Distillation(start(), tiny, rng=dd.generator("run"))
    list(straight)
    first = dd.Distillation(start(), tiny, rng=dd.generator("run"))
    for _ in range(4):
        next(first)
    assert first.rate_reductions == 1
    second = dd.Distillation(dm_plan(), tiny, rng=dd.generator("run"))
    second.load_state_dict(unpack(*pack(first.state_dict())))
    list(second)
    assert second.rate_reductions == 1
    assert torch.equal(pixels(second), pixels(straight))


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("supply", ["fresh", "alternating"])
def test_any_supply_of_networks_works_with_any_objective_for_networks(tiny, make_student, key, supply):
    plan = distillation(key, tiny, make_student).plan
    first = plan.students.next(tiny, plan.syn, dd.generator("student"))
    if type(first) is not type(make_student(dd.generator(0))):
        return
    students = {
        "fresh": FreshStudents(make_student),
        "alternating": AlternatingStudents(make_student, TrainOnReal(steps=1, batch_size=4), period=2),
    }[supply]
    run = distillation(key, tiny, make_student, students=students)
    before = stored(run.plan.syn)
    assert all(math.isfinite(step.loss) for step in run)
    assert not equal(stored(run.plan.syn), before)


def test_terms_may_share_a_draw(tiny, dm_plan):
    def together(student, real, syn, rng):
        x, y = syn.mixed(99, rng)
        yield x.square().sum() + y.sum()

    def apart(student, real, syn, rng):
        x, y = syn.mixed(99, rng)
        yield x.square().sum()
        yield (0 * x).sum() + y.sum()

    runs = [dd.Distillation(dm_plan(objective=o), tiny, rng=dd.generator("run")) for o in (together, apart)]
    for run in runs:
        list(run)
    torch.testing.assert_close(pixels(runs[0]), pixels(runs[1]))


def test_a_student_that_learns_gets_no_gradient_from_the_outer_step(tiny, make_student):
    made = []

    def recorded(rng):
        made.append(make_student(rng))
        return made[-1]

    recipe = dd.DC(ipc=1, **RECIPE_SETTINGS["dc"])
    next(Run(recipe, tiny, make_student=recorded, seed=dd.generator("run")))
    assert made and all(p.grad is None for student in made for p in student.parameters())


def test_distribution_matching_learns_on_digits(digits, make_digit_student):
    train, _ = digits
    recipe = dd.DM(ipc=1, steps=60, real_batch=128, augmentation="", start="noise", image_lr=1.0)
    run = Run(recipe, train, make_student=make_digit_student, seed=dd.generator("digits")).distillation
    losses = [step.loss for step in run]
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])
    means = torch.stack([train.of_class(c, 999, dd.generator(0)).x.mean(0) for c in range(10)])
    found = run.plan.syn.detached(dd.generator(0)).x
    # Each image has come closer to the mean of its own class than to most others.
    distance = torch.cdist(found.flatten(1), means.flatten(1))
    assert int((distance.argmin(1) == torch.arange(10)).sum()) >= 5


def test_refusals(tiny, dm_plan):
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        dm_plan(steps=0)
    for options, message in (
        ({"retries": -1}, "retries must be at least 0, got -1"),
        ({"shrink": 1.0}, "shrink must lie strictly between 0 and 1, got 1.0"),
    ):
        with pytest.raises(ValueError, match=message):
            dd.Distillation(dm_plan(), tiny, rng=dd.generator(0), **options)
