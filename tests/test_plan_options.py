"""What a plan may ask of the loop: a moving average, steps left out, clipped gradients, changing objectives."""

from __future__ import annotations

import dataclasses
import math
from functools import partial

import pytest
import torch
from stored_sets import equal, stored

import ddsdk as dd
from ddsdk.foundation import derive
from ddsdk.foundation.errors import DivergedError
from ddsdk.objectives import ClassMatch, mean_embedding, squared
from ddsdk.recipes.parts import sgd_on_images
from ddsdk.running import ObjectiveSchedule
from ddsdk.running.checkpoint import pack, unpack
from ddsdk.running.run import Run
from ddsdk.synthetic import LearnedLabels, Pixels
from ddsdk.synthetic.rate import LearnedRate

STEPS = 6


@pytest.fixture
def make_run(tiny, make_student):
    """A function that starts a run over a set with learned labels and a learned rate, with changes to its plan."""

    def start(momentum=0.5, lr=0.1, **parts):
        recipe = dd.DM(ipc=2, steps=STEPS, real_batch=4, augmentation="")
        plan = recipe.plan(tiny, make_student=make_student, rng=dd.generator("plan"))
        labels = LearnedLabels(torch.eye(3)[plan.syn.classes])
        syn = dd.SyntheticSet(plan.syn.parametrization, labels, plan.syn.classes, 3, LearnedRate(0.1))
        changes = {
            "syn": syn,
            "objective": everything,
            "make_optimizer": partial(sgd_on_images, lr=lr, momentum=momentum),
        }
        return dd.Distillation(dataclasses.replace(plan, **changes | parts), tiny, rng=dd.generator("run"))

    return start


def everything(student, real, syn, rng):
    """Images, labels and the rate all move, and differently at every step."""
    x, y = syn.mixed(99, rng)
    goal = torch.randn((), generator=derive(rng, "goal"))
    yield (x - goal).square().mean() + (y[:, 0] - goal).square().mean() + (syn.rate - 0.2).square()


def jumping(*steps):
    """The objective above, with 100 added in some steps, counted from 0."""

    def at(step):
        def objective(student, real, syn, rng):
            yield from everything(student, real, syn, rng)
            if step in steps:
                yield syn.mixed(99, rng).x.sum() * 0 + 100

        return objective

    return ObjectiveSchedule(at)


def floating(state):
    return {name: value.double() for name, value in state.items() if value.is_floating_point()}


def averaged(states, decay):
    """The moving average of images and labels as one would write it down, and the last learned rate."""
    average = floating(states[0])
    for state in states[1:]:
        for name, value in floating(state).items():
            share = 0 if name.startswith("rate.") else decay
            average[name] = share * average[name] + (1 - share) * value
    return average


@pytest.mark.parametrize("decay", [0.1, 0.9, 0.999])
def test_the_average_is_that_of_a_loop(make_run, decay):
    run = make_run(average=decay)
    seen = [stored(run.plan.syn)]
    for step in run:
        seen.append(stored(step.syn))
        found = stored(run.result)
        for name, value in averaged(seen, decay).items():
            torch.testing.assert_close(found[name].double(), value, rtol=1e-5, atol=1e-6)
        assert torch.equal(found["classes"], seen[0]["classes"])
    assert {name.split(".")[0] for name in floating(seen[0])} == {"parametrization", "labels", "rate"}
    assert not torch.equal(found["rate.value"], seen[0]["rate.value"])
    assert not equal(stored(run.result), stored(run.plan.syn))


def test_the_average_follows_and_does_not_lead(make_run):
    plain, followed = make_run(), make_run(average=0.9)
    assert [s.loss for s in plain] == [s.loss for s in followed]
    assert equal(stored(plain.plan.syn), stored(followed.plan.syn))
    assert plain.result is plain.plan.syn
    # The result is a copy: who changes it changes no average.
    with torch.no_grad():
        followed.result.parametrization.images.zero_()
    assert float(followed.result.parametrization.images.detach().abs().sum()) > 0


def test_the_average_survives_a_stop_bit_for_bit(make_run):
    straight = make_run(average=0.9)
    list(straight)
    for stop in range(STEPS + 1):
        first = make_run(average=0.9)
        for _ in range(stop):
            next(first)
        second = make_run(average=0.9)
        second.load_state_dict(unpack(*pack(first.state_dict())))
        assert equal(stored(second.result), stored(first.result))
        list(second)
        assert equal(stored(second.result), stored(straight.result))


def test_an_undone_step_leaves_no_trace_in_the_average(make_run):
    calls = []

    def faulty(student, real, syn, rng):
        calls.append(1)
        for term in everything(student, real, syn, rng):
            yield term * math.nan if len(calls) == 4 else term

    run = make_run(average=0.5, objective=faulty)
    seen = {0: stored(run.plan.syn)}
    for step in run:
        seen[step.number] = stored(step.syn)
    assert run.rate_reductions == 1
    wanted = averaged([seen[i] for i in range(STEPS + 1)], 0.5)
    found = stored(run.result)
    for name, value in wanted.items():
        torch.testing.assert_close(found[name].double(), value, rtol=1e-5, atol=1e-6)


def test_a_recipe_hands_over_its_average(tiny, make_student):
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Averaged(dd.DM):
        def parts(self, real, *, make_student, rng):
            plan = super().parts(real, make_student=make_student, rng=rng)
            return dataclasses.replace(plan, average=0.5)

    recipe = Averaged(ipc=1, steps=2, real_batch=4)
    found = dd.distill(recipe, tiny, make_student=make_student, seed=dd.generator("run"))
    run = Run(recipe, tiny, make_student=make_student, seed=dd.generator("run")).distillation
    list(run)
    assert torch.equal(found.images, run.result.parametrization.images)
    assert not torch.equal(found.images, run.plan.syn.parametrization.images)


def test_a_step_left_out_changes_nothing_and_is_counted(make_run):
    run = make_run(objective=jumping(2, 4), skip_above=50.0, average=0.9)
    states, results = [stored(run.plan.syn)], [stored(run.result)]
    numbers, losses = [], []
    for step in run:
        states.append(stored(step.syn))
        results.append(stored(run.result))
        numbers.append(step.number)
        losses.append(step.loss)
    assert numbers == list(range(1, STEPS + 1))
    for i in range(STEPS):
        left_out = i in (2, 4)
        assert (losses[i] > 50) == left_out
        assert equal(states[i], states[i + 1]) == left_out
        assert equal(results[i], results[i + 1]) == left_out
    assert run.skipped == run.record()["steps_skipped"] == 2
    assert not run.diverged


def test_a_step_left_out_leaves_the_momentum_alone(make_run):
    """The steps around it are those of a run that never took it."""
    run = make_run(objective=jumping(2), skip_above=50.0, steps=4)
    for _ in range(2):
        next(run)
    before = unpack(*pack(run.state_dict()))["optimizer"]
    next(run)
    after = unpack(*pack(run.state_dict()))["optimizer"]
    assert before["param_groups"] == after["param_groups"]
    for i, state in before["state"].items():
        assert torch.equal(state["momentum_buffer"], after["state"][i]["momentum_buffer"])


def test_left_out_steps_are_counted_across_a_stop(make_run):
    def start(**parts):
        return make_run(objective=jumping(1, 2, 4), skip_above=50.0, **parts)

    straight = start()
    list(straight)
    for stop in range(STEPS + 1):
        first = start()
        for _ in range(stop):
            next(first)
        second = start()
        second.load_state_dict(unpack(*pack(first.state_dict())))
        list(second)
        assert second.record() == straight.record()
        assert equal(stored(second.result), stored(straight.result))
    assert straight.skipped == 3


def test_a_loss_just_at_the_threshold_is_taken(make_run):
    loss = next(make_run()).loss
    at, below = make_run(skip_above=loss), make_run(skip_above=math.nextafter(loss, 0))
    next(at), next(below)
    assert (at.skipped, below.skipped) == (0, 1)


def test_a_hundred_steps_left_out_in_a_row_are_a_failure(make_run):
    run = make_run(objective=jumping(*range(3, 200)), skip_above=50.0, steps=200)
    for _ in range(3):
        next(run)
    last = stored(run.plan.syn)
    with pytest.raises(DivergedError, match=r"exceeded skip_above=50\.0 in 100 steps in a row") as error:
        for _ in run:
            pass
    assert error.value.syn is run.plan.syn
    assert equal(stored(run.plan.syn), last)
    assert run.index == 3 + 99
    assert "in step 103" in str(error.value)
    assert run.record()["diverged"]


def test_one_step_taken_starts_the_count_anew(make_run):
    steps = [s for s in range(250) if s % 100 != 99]
    run = make_run(objective=jumping(*steps), skip_above=50.0, steps=250)
    assert len(list(run)) == 250
    assert run.skipped == len(steps)


def test_a_loss_that_is_not_finite_is_undone_and_not_left_out(make_run):
    def never(student, real, syn, rng):
        yield syn.mixed(99, rng).x.sum() * math.inf

    run = make_run(objective=never, skip_above=50.0)
    with pytest.raises(DivergedError, match="after 5 reductions"):
        next(run)
    assert run.skipped == 0


def gap(a, b):
    """The length of the way from one state to another, over everything that is stored."""
    return math.sqrt(sum(float((floating(b)[n] - v).square().sum()) for n, v in floating(a).items()))


def test_a_gradient_is_clipped_to_its_norm_over_everything_stored(make_run):
    moves = {}
    for norm in (None, 0.05, 1e3):
        run = make_run(momentum=0.0, lr=1.0, clip_norm=norm, steps=1)
        before = stored(run.plan.syn)
        next(run)
        moves[norm] = (before, stored(run.plan.syn))
    free, clipped, loose = (moves[norm] for norm in (None, 0.05, 1e3))
    assert equal(free[1], loose[1])
    assert gap(*free) > 0.1
    assert gap(*clipped) == pytest.approx(0.05, rel=1e-4)
    share = gap(*clipped) / gap(*free)
    for name, value in floating(free[1]).items():
        direction = value - free[0][name].double()
        torch.testing.assert_close(
            clipped[1][name].double() - clipped[0][name].double(), share * direction, rtol=0, atol=1e-6
        )


def steep(*scales):
    """The objective above, steeper in each step by its scale."""

    def at(step):
        def objective(student, real, syn, rng):
            for term in everything(student, real, syn, rng):
                yield scales[step] * term

        return objective

    return ObjectiveSchedule(at)


def steepness(run):
    """The length of the gradient of the last step, as the optimizer found it."""
    return math.sqrt(sum(float(p.grad.double().square().sum()) for p in run.plan.syn.parameters()))


def test_a_gradient_is_clipped_to_what_is_usual(make_run):
    scales = (1.0, 1.2, 50.0, 1.0, 1000.0, 1.0)
    run = make_run(clip_ratio=2.0, objective=steep(*scales))
    free = make_run()
    usual, cut = None, []
    for scale in scales:
        # The same step without a bound, from the same state, tells the length of the gradient.
        free.load_state_dict(run.state_dict())
        next(free)
        next(run)
        norm = scale * steepness(free)
        usual = norm if usual is None else usual
        wanted = min(norm, 2 * usual)
        cut.append(norm > wanted)
        assert steepness(run) == pytest.approx(wanted, rel=1e-5)
        usual = 0.9 * usual + 0.1 * wanted
        assert run.state_dict()["usual_norm"] == pytest.approx(usual, rel=1e-5)
    assert cut[2]
    assert cut[4]
    assert not all(cut)


def test_a_resumed_run_knows_what_is_usual(make_run):
    scales = (1.0, 1.2, 50.0, 1.0, 1000.0, 1.0)
    options = {"clip_ratio": 1.5, "objective": steep(*scales)}
    straight = finished(make_run(**options))
    first = make_run(**options)
    for _ in range(4):
        next(first)
    state = first.state_dict()
    second = make_run(**options)
    second.load_state_dict(unpack(*pack(state)))
    assert equal(stored(finished(second).plan.syn), stored(straight.plan.syn))
    forgetful = make_run(**options)
    forgetful.load_state_dict({**state, "usual_norm": None})
    assert not equal(stored(finished(forgetful).plan.syn), stored(straight.plan.syn))


def test_a_gradient_of_zero_is_not_usual(make_run):
    run = make_run(clip_ratio=2.0, objective=steep(0.0, 1.0, 1.0, 1.0, 1.0, 1.0))
    next(run)
    before = stored(run.plan.syn)
    next(run)
    assert gap(before, stored(run.plan.syn)) > 0


def test_the_objective_of_each_step_is_the_scheduled_one(make_run):
    asked = []

    def at(step):
        asked.append(step)
        return everything

    run = make_run(objective=ObjectiveSchedule(at))
    list(run)
    assert asked == list(range(STEPS))
    assert equal(stored(run.plan.syn), stored(finished(make_run()).plan.syn))
    second = make_run(objective=ObjectiveSchedule(at))
    for _ in range(4):
        next(second)
    third = make_run(objective=ObjectiveSchedule(at))
    third.load_state_dict(unpack(*pack(second.state_dict())))
    asked.clear()
    list(third)
    assert asked == [4, 5]
    assert run.plan.objective_at(17) is everything
    assert make_run().plan.objective_at(17) is everything


def finished(run):
    list(run)
    return run


def test_a_step_for_each_class_moves_that_class_alone(make_run):
    def at(step):
        return ClassMatch(byproduct=mean_embedding, distance=squared, real_batch=4, classes=(step % 3,))

    run = make_run(objective=ObjectiveSchedule(at), momentum=0.0)
    before = run.plan.syn.parametrization.images.detach().clone()
    for step in run:
        after = step.syn.parametrization.images.detach().clone()
        moved = (after != before).flatten(1).any(1)
        assert torch.equal(moved, step.syn.classes == (step.number - 1) % 3)
        before = after


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        *[({"average": v}, f"average must lie strictly between 0 and 1, got {v}") for v in (0, 1, -1, math.nan)],
        *[
            ({name: v}, f"{name} must be positive and finite, got {v}")
            for name in ("skip_above", "clip_norm")
            for v in (0, -1.0, math.nan, math.inf)
        ],
        *[({"clip_ratio": v}, f"clip_ratio must be at least 1 and finite, got {v}") for v in (0.5, math.nan, math.inf)],
    ],
)
def test_refusals(make_run, options, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        make_run(**options)


def test_the_rate_of_a_step_is_the_optimizers_times_its_factor(make_run):
    """Without momentum the way of a step is proportional to its rate, and the state keeps the full one."""
    start, found = stored(make_run().plan.syn), {}
    for factor in (0.0, 0.5, 1.0):
        run = make_run(momentum=0.0, rate_at=lambda step, factor=factor: factor)
        next(run)
        assert run.state_dict()["optimizer"]["param_groups"][0]["lr"] == 0.1
        found[factor] = run.plan.syn.state_dict()["parametrization.images"] - start["parametrization.images"]
    assert not found[0.0].any() and found[1.0].any()
    assert torch.allclose(found[0.5], found[1.0] / 2, atol=1e-7)


def test_every_step_ends_within_the_bounds_of_the_set(make_run):
    run = make_run(lr=1e3)
    bounded = Pixels(run.plan.syn.parametrization.images.detach(), (torch.full((3, 1, 1), -0.5), torch.ones(3, 1, 1)))
    syn = dd.SyntheticSet(bounded, run.plan.syn.labels, run.plan.syn.classes, 3)
    moved = make_run(lr=1e3, syn=syn, objective=lambda student, real, syn, rng: iter([syn.mixed(99, rng).x.sum()]))
    next(moved)
    assert torch.equal(bounded.images.detach(), torch.full_like(bounded.images, -0.5))
