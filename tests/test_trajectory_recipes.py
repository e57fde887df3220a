"""Experts and the recipes that follow them: the supply, derived values, two steps, going on bit for bit."""

from __future__ import annotations

import copy
import dataclasses
from itertools import pairwise

import pytest
import torch
from tiny_recipes import RECIPE_SETTINGS

import ddsdk as dd
from ddsdk.recipes.trajectory import MTT_VALUES, between, sgd_by_kind
from ddsdk.running.run import Run
from ddsdk.students import (
    ExpertStudents,
    StartEpochSchedule,
    TrainedRuns,
    Training,
    correctly_classified_images,
    expert_logits,
)
from ddsdk.training import constant_memory, truncated

NAMES = ("mtt", "ftd", "tesla", "datm")
TRAINING = Training(epochs=4, batch_size=8)


@pytest.fixture
def runs(tiny, make_student, tmp_path):
    return TrainedRuns(tiny, make_student, TRAINING, count=2, seed=1, folder=tmp_path)


@pytest.fixture(params=NAMES)
def recipe(request):
    return dd.RECIPES[request.param](ipc=2, **RECIPE_SETTINGS[request.param])


def starts(supply, runs, n):
    """Return (run, start, end) of the next `n` stretches."""
    rows = [[runs.weights(run, at) for at in range(5)] for run in range(2)]
    found = []
    for i in range(n):
        span = supply.next(None, None, dd.generator("draw", i))
        assert span.network is runs.flat
        ends = [
            (run, at)
            for w in (span.start, span.target)
            for run in range(2)
            for at in range(5)
            if torch.equal(rows[run][at], w)
        ]
        (run, start), (same, end) = ends
        assert run == same
        found.append((run, start, end))
    return found


def test_stretches_are_uniform_over_runs_and_window(runs):
    found = starts(ExpertStudents(runs, span=2, first=1, last=3), runs, 24)
    assert {end - start for _, start, end in found} == {2}
    assert {(run, start) for run, start, _ in found} == {(0, 1), (0, 2), (1, 1), (1, 2)}


def test_a_window_grows_linearly_and_a_supply_goes_on_where_it_was(runs):
    supply = ExpertStudents(runs, span=1, last=4, growth=StartEpochSchedule(1, 6))
    bounds = []
    for i in range(8):
        bounds.append(supply.bound)
        if i == 3:
            state = copy.deepcopy(supply.state_dict())
        supply.next(None, None, dd.generator(i))
    assert bounds == [1, 1, 2, 2, 3, 3, 4, 4]
    assert all(start == 0 for _, start, _ in starts(ExpertStudents(runs, span=1, last=1), runs, 5))
    other = ExpertStudents(runs, span=1, last=4, growth=StartEpochSchedule(1, 6))
    other.load_state_dict(state)
    assert other.bound == bounds[3]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"span": 0, "last": 1}, "span must be at least 1, got 0"),
        ({"span": 2, "last": 4}, r"last must lie in 1..3, so that all segments end, got 4"),
        ({"span": 2, "last": 2, "first": 2}, r"last must lie in 3..3, .* got 2"),
        ({"span": 1, "last": 2, "first": -1}, "first must be at least 0, got -1"),
        ({"span": 1, "last": 2, "growth": StartEpochSchedule(3, 5)}, r"growth start must lie in 1..2, got 3"),
        ({"span": 1, "last": 2, "growth": StartEpochSchedule(1, 0)}, "growth steps must be at least 1, got 0"),
    ],
)
def test_windows_that_are_none_are_refused(runs, options, message):
    with pytest.raises(ValueError, match=message):
        ExpertStudents(runs, **options)


class Says(torch.nn.Module):
    """Takes every image for the class that its mean pixel is nearest to, among 0, 1 and 2."""

    def forward(self, x):
        return -((x.mean((1, 2, 3))[:, None] - torch.arange(3.0)) ** 2)


def test_known_images_come_first():
    images = torch.zeros(9, 1, 2, 2)
    labels = torch.arange(3).repeat_interleave(3)
    images[[1, 3, 4, 5]] = 0.5  # their mean becomes 1
    images[[7, 8]] = 1.0  # 2
    real = dd.RealData(images, labels, class_names=("a", "b", "c"), preprocess=dd.Preprocess.normalise([0.0], [0.5]))
    for seed in range(5):
        picked = correctly_classified_images(Says(), real, 2, dd.generator(seed)).tolist()
        assert [real.labels[i] for i in picked] == [0, 0, 1, 1, 2, 2]
        assert set(picked[:2]) == {0, 2}
        assert set(picked[2:4]) < {3, 4, 5}
        assert set(picked[4:]) == {7, 8}
        # A class of which too few are known is filled up.
        assert set(correctly_classified_images(Says(), real, 3, dd.generator(seed)).tolist()) == set(range(9))


def test_labels_are_the_mean_logits_of_those_who_are_right(tiny, runs):
    batch = tiny.batch(torch.arange(len(tiny)))
    found = expert_logits(runs, batch).softmax(1)
    classes = batch.y.argmax(1)
    with torch.no_grad():
        logits = [runs.network(i)(batch.x) for i in range(2)]
    for i, c in enumerate(classes.tolist()):
        right = [row[i] for row in logits if row[i].argmax() == c]
        known = torch.stack(right).mean(0).softmax(0) if right else torch.full((3,), 0.05)
        if not right:
            known[c] = 0.9
        torch.testing.assert_close(found[i], known)
    assert bool((found.argmax(1) == classes).all())
    # Some images are known to both, some to one or to none.
    assert len({sum(int(row[i].argmax() == c) for row in logits) for i, c in enumerate(classes)}) > 1


def test_values_are_the_published_ones_where_there_are_some():
    for points in MTT_VALUES.values():
        assert [between(points, n) for n in points] == pytest.approx(list(points.values()))
        assert between(points, 1) == next(iter(points.values()))
        assert between(points, 10**6) == list(points.values())[-1]
    assert between({10: 1e-7, 1000: 1e-5}, 100) == pytest.approx(1e-6)
    assert between({10: 0, 1000: 40}, 100) == pytest.approx(20)
    assert between({10: 0.3}, 100) == 0.3


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("ipc", [1, 2, 5])
def test_every_ipc_has_values(tiny, make_student, name, ipc):
    recipe = dd.RECIPES[name](ipc=ipc, **RECIPE_SETTINGS[name] | {"student_steps": None})
    plan = recipe.plan(tiny, make_student=make_student, rng=dd.generator(0))
    assert plan.objective.steps in range(30, 81)
    assert 0.001 <= float(plan.syn.rate.value.detach()) <= 0.01 + 1e-6
    assert plan.objective.batch_size == 1000


def test_images_of_another_size_have_another_rate(tiny, make_student):
    plan = dd.MTT(ipc=2).plan(tiny, make_student=make_student, rng=dd.generator(0))
    images, rate = plan.make_optimizer(plan.syn).param_groups
    assert images["lr"] == pytest.approx(100 * 8 * 12 / 32**2)
    assert rate["lr"] == pytest.approx(1e-7)
    assert (images["momentum"], rate["momentum"]) == (0.5, 0.5)


def test_learned_labels_have_a_rate_of_their_own(tiny, make_student):
    recipe = dd.DATM(ipc=2, **RECIPE_SETTINGS["datm"])
    plan = recipe.plan(tiny, make_student=make_student, rng=dd.generator(0))
    _, labels, _ = plan.make_optimizer(plan.syn).param_groups
    assert (labels["lr"], labels["momentum"]) == (5, 0.9)
    without = dd.SyntheticSet(plan.syn.parametrization, plan.syn.labels, plan.syn.classes, 3)
    groups = sgd_by_kind(without, image_lr=1, rate_lr=1, label_lr=3, momentum=0.5).param_groups
    assert [g["lr"] for g in groups] == [1, 3]


def test_an_average_keeps_as_much_of_its_start_in_a_short_run(tiny, make_student):
    def decay(steps):
        settings = {**RECIPE_SETTINGS["ftd"], "steps": steps}
        return dd.FTD(ipc=3, **settings).plan(tiny, make_student=make_student, rng=dd.generator(0)).average

    # Published for 10 images: three classes with 3 each are clamped to it.
    assert decay(5000) == 0.9999
    assert decay(50) ** 50 == pytest.approx(0.9999**5000)


def test_the_four_are_the_frame_with_other_parts(tiny, make_student):
    def plan(name, **more):
        recipe = dd.RECIPES[name](**{"ipc": 2} | RECIPE_SETTINGS[name] | more)
        rng = dd.generator(0)
        return recipe.plan(tiny, make_student=make_student, rng=rng), recipe.runs(
            tiny, make_student=make_student, rng=rng
        )

    mtt, plain_runs = plan("mtt")
    assert mtt.objective.unroll is constant_memory
    assert (mtt.average, mtt.skip_above) == (None, None)
    assert plan("tesla")[0].objective.unroll is truncated
    assert plan("tesla", truncated=False)[0].objective.unroll is constant_memory
    assert plan("tesla")[1]._keys == plain_runs._keys
    ftd, flat_runs = plan("ftd")
    assert ftd.average == pytest.approx(0.9999**2500)
    assert flat_runs.training.sharpness == 0.01
    datm, same_runs = plan("datm", skip_above=None)
    assert (datm.skip_above, plan("datm", ipc=1, skip_above=None)[0].skip_above) == (1.0, 1.1)
    assert datm.average is None
    assert same_runs._keys == flat_runs._keys != plain_runs._keys
    assert plan("ftd", average=0.7)[0].average == plan("datm", average=0.7)[0].average == 0.7


def test_the_window_of_datm_follows_the_number_of_images(tiny, make_student):
    def window(**settings):
        recipe = dd.DATM(**{"expert_epochs": 100, "steps": 11, **settings})
        runs = TrainedRuns(tiny, make_student, Training(epochs=recipe.expert_epochs), count=1, seed=0)
        supply = recipe._window(tiny, runs)
        first, early = supply._first, supply.bound
        supply.load_state_dict({"taken": 11})
        return first, early, supply.bound

    assert window(ipc=3) == (0, 4, 4)
    assert window(ipc=34) == (0, 10, 20)
    assert window(ipc=167) == (0, 20, 40)
    assert window(ipc=1667) == (40, 60, 60)
    assert window(ipc=1667, expert_epochs=20) == (18, 19, 19)
    assert window(ipc=3, min_start=7, max_start=30, early_max_start=9) == (7, 9, 30)
    assert window(ipc=3, min_start=7, max_start=30) == (7, 8, 30)
    with pytest.raises(ValueError, match=r"last must lie in 32..99, .* got 30"):
        window(ipc=3, min_start=31, max_start=30)


def test_recipes_say_which_networks_they_need(recipe, tiny, make_student):
    assert recipe.trains_networks()
    assert not dd.DM().trains_networks()
    rng = dd.generator(3)
    assert Run(dd.DM(), tiny, make_student=make_student, seed=rng).runs is None
    early = Run(recipe, tiny, make_student=make_student, seed=rng).runs
    plan = Run(recipe, tiny, make_student=make_student, seed=rng).distillation.plan
    assert early._keys == plan.students._runs._keys
    other = Run(recipe, tiny, make_student=make_student, seed=4).runs
    assert not set(early._keys) & set(other._keys)


def test_a_run_that_goes_on_is_the_run_that_never_stopped(recipe, tiny, make_student):
    recipe = dataclasses.replace(recipe, steps=4)

    def fresh():
        return Run(recipe, tiny, make_student=make_student, seed=dd.generator("run")).distillation

    whole, first = fresh(), fresh()
    losses = [step.loss for step in whole]
    next(first)
    next(first)
    second = fresh()
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert [step.loss for step in second] == losses[2:]
    for name, value in whole.result.state_dict().items():
        assert torch.equal(second.result.state_dict()[name], value), name


def test_the_set_carries_its_rate_and_what_the_networks_took(recipe, tiny, make_student):
    found = dd.distill(recipe, tiny, make_student=make_student, seed=dd.generator("run"))
    assert 1e-4 <= found.learned_lr <= 1
    about = found.provenance
    assert about["runs"]["count"] == 2
    assert about["runs"]["seconds"] > 0
    again = dd.distill(recipe, tiny, make_student=make_student, seed=dd.generator("run"))
    assert again.content_id == found.content_id
    # Networks that lie in the cache count as if they had been trained now.
    assert again.provenance["runs"] == about["runs"]
    assert again.provenance["seconds"] >= about["runs"]["seconds"]


def test_images_labels_and_rate_are_learned(tiny, make_student):
    recipe = dd.DATM(ipc=2, **RECIPE_SETTINGS["datm"])
    run = Run(recipe, tiny, make_student=make_student, seed=dd.generator("run")).distillation
    before = {k: v.clone() for k, v in run.plan.syn.state_dict().items()}
    next(run)
    after = run.plan.syn.state_dict()
    moved = {k for k in before if not torch.equal(before[k], after[k])}
    assert moved == {"parametrization.images", "labels.logits", "rate.value"}


def test_a_network_with_batch_norm_can_be_followed(tiny):
    make = dd.network_factory("convnet", tiny.image_shape, 3, width=4, depth=1, norm="batch")
    found = dd.distill(dd.MTT(ipc=2, **RECIPE_SETTINGS["mtt"]), tiny, make_student=make, seed=0)
    assert torch.isfinite(found.images).all()


def test_following_brings_a_student_nearer(digits, make_digit_student):
    train, _ = digits
    recipe = dd.MTT(ipc=1, steps=12, student_steps=5, experts=1, expert_epochs=6, expert_images=40, max_start=1)
    run = Run(recipe, train, make_student=make_digit_student, seed=0).distillation
    losses = [step.loss for step in run]
    assert sum(losses[-4:]) < 0.8 * sum(losses[:4])
    assert all(b < 1.1 * a for a, b in pairwise(losses[:4]))


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (dd.MTT, {"expert_span": 51}, "expert_span must not exceed 50 expert_epochs, got 51"),
        (dd.MTT, {"max_start": 50}, r"max_start must be at most 49 \(expert_epochs - expert_span \+ 1\), got 50"),
        (dd.MTT, {"experts": 0}, "experts must be at least 1, got 0"),
        (dd.MTT, {"student_steps": 0}, "student_steps must be at least 1, got 0"),
        (dd.MTT, {"rate_lr": 0.0}, "rate_lr must be positive and finite, got 0.0"),
        (dd.MTT, {"sharpness": -1.0}, "sharpness must be finite and not negative, got -1.0"),
        (dd.FTD, {"average": 1.0}, "average must lie strictly between 0 and 1, got 1.0"),
        (dd.DATM, {"average": 0.0}, "average must lie strictly between 0 and 1, got 0.0"),
        (dd.DATM, {"min_start": -1}, "min_start must be at least 0, got -1"),
        (dd.DATM, {"early_max_start": 0}, "early_max_start must be at least 1, got 0"),
        (dd.DATM, {"label_lr": 0.0}, "label_lr must be positive and finite, got 0.0"),
    ],
)
def test_impossible_settings_are_refused(kind, settings, message):
    with pytest.raises(ValueError, match=message):
        kind(**settings)


def test_too_few_real_images_are_refused(tiny, make_student):
    with pytest.raises(ValueError, match=r"5 images of class 2 \('cat'\), or .*, got 6"):
        dd.distill(dd.DATM(ipc=6, **RECIPE_SETTINGS["datm"]), tiny, make_student=make_student, seed=0)
