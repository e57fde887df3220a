"""CAFE, IDM, DataDAM, M3D and NCFM: derived values, defaults that fit any data, a loss that falls, refusals."""

from __future__ import annotations

import copy
import dataclasses
import math

import pytest
import torch
from lasting_students import plateau, queue, weights
from tiny_recipes import RECIPE_SETTINGS

import ddsdk as dd
from ddsdk.objectives import (
    AttentionMaps,
    CharacteristicDistance,
    CharacteristicFunction,
    Discrimination,
    GaussianMMD,
    LayerSquares,
    all_features,
    layer_means,
)
from ddsdk.recipes import RECIPES
from ddsdk.running.run import Run
from ddsdk.students import FreshStudents, ScoredStudent, accuracy_on

FAMILY = ("cafe", "idm", "datadam", "m3d", "ncfm")


# Recipes


def plan_of(name, real, make_student, **fields):
    recipe = RECIPES[name](**RECIPE_SETTINGS[name] | fields)
    return recipe.plan(real, make_student=make_student, rng=dd.generator("plan"))


def rate(plan):
    return plan.make_optimizer(plan.syn).param_groups[0]["lr"]


def test_rates_are_derived(tiny, make_student):
    assert rate(plan_of("datadam", tiny, make_student, ipc=5)) == 1.0
    assert rate(plan_of("datadam", tiny, make_student, ipc=51, start="noise")) == 10.0
    assert rate(plan_of("m3d", tiny, make_student, ipc=100, start="noise")) == 10.0
    assert rate(plan_of("idm", tiny, make_student, ipc=2)) == 0.2
    assert rate(plan_of("cafe", tiny, make_student, ipc=2)) == 0.1
    # AdamW moves each pixel by its rate: 0.001 of the unit range is 0.004 of a space with std 0.25.
    assert rate(plan_of("ncfm", tiny, make_student, ipc=2)) == pytest.approx(0.004)


@pytest.mark.parametrize(("ipc", "weight"), [(1, 0.5), (10, 0.5), (30, 0.3), (50, 0.1), (200, 0.1)])
def test_the_weight_of_idm_is_interpolated(ipc, weight):
    assert dd.IDM(ipc=ipc).weight(2048) == pytest.approx(weight)
    assert dd.IDM(ipc=ipc).weight(1024) == pytest.approx(weight / 2)
    assert dd.IDM(ipc=ipc, class_weight=2.0).weight(7) == 2.0


def test_idm_looks_at_many_images_of_a_class_with_one_slot(tiny, make_student):
    def match(plan):
        return plan.objective.parts[0][1].objective

    assert match(plan_of("idm", tiny, make_student, ipc=1, real_batch=None)).real_batch == 5000
    assert match(plan_of("idm", tiny, make_student, ipc=2, real_batch=None)).real_batch == 256


def test_idm_asks_only_networks_that_know_something(tiny, make_student):
    plan = plan_of("idm", tiny, make_student, ipc=2)
    network = make_student(dd.generator(0))
    # The tiny network has 96 features.
    for accuracy, terms, weight in ((0.0, 3, 0.0), (0.5, 6, 25.0 * 96 / 2048)):
        student = ScoredStudent(network, accuracy)
        assert plan.objective.parts[1][0](student) == weight
        assert len(list(plan.objective(student, tiny, plan.syn, dd.generator(0)))) == terms


def test_cafe_halves_its_rate_at_the_published_fractions():
    real = dd.load("digits")
    make = dd.network_factory("convnet", real.image_shape, 10, width=2, depth=1)
    plan = dd.CAFE(ipc=1, steps=2000).plan(real, make_student=make, rng=dd.generator(0))
    found = [plan.rate_at(i) for i in (0, 1199, 1200, 1599, 1600, 1799, 1800, 1999)]
    assert found == [1, 1, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125]


def test_cafe_takes_the_augmentation_everywhere_or_nowhere(tiny, make_student):
    for given, wanted in (("", ""), ("flip", "flip"), (None, dd.DSA_STRATEGY)):
        plan = plan_of("cafe", tiny, make_student, ipc=1, augmentation=given)
        assert [part.augmentation.strategy for _, part in plan.objective.parts] == [wanted] * 2
        assert dd.CAFE(ipc=1, augmentation=given).protocol(tiny).augmentation == wanted
    assert dd.CAFE(ipc=1).protocol(tiny).epochs == 300


def test_ncfm_compares_at_as_many_frequencies_as_it_is_told(tiny, make_student):
    plan = plan_of("ncfm", tiny, make_student, ipc=2)
    student = plan.students.next(tiny, plan.syn, dd.generator("step"))
    frequencies = student.adversary.draw(plan.objective.parts[0][1].count, tiny.device, dd.generator(0))
    assert frequencies.shape == (4 * 4 * 6, 8)
    assert dd.NCFM().frequencies == 4096


def test_ncfm_judges_by_a_trained_network_of_the_pool(tiny, make_student, tmp_path, monkeypatch):
    monkeypatch.setenv("DDSDK_CACHE", str(tmp_path))
    recipe = dd.NCFM(ipc=1, **RECIPE_SETTINGS["ncfm"])
    rng = dd.generator("plan")
    runs = recipe.runs(tiny, make_student=make_student, rng=rng)
    assert len(runs) == 2
    plan = recipe.plan(tiny, make_student=make_student, rng=rng)
    assert runs.missing == [1]
    teacher = plan.objective.parts[1][1].objective.teacher
    assert torch.equal(weights(teacher), weights(runs.network(0)))
    assert runs.training.snapshots == 2


@pytest.mark.parametrize("name", ["idm", "m3d", "ncfm"])
def test_factor_one_is_plain_images(tiny, make_student, name):
    for factor, images in ((1, 6), (2, 24)):
        plan = plan_of(name, tiny, make_student, ipc=2, factor=factor)
        assert len(plan.syn.detached(dd.generator(0)).x) == images


@pytest.mark.parametrize("name", FAMILY)
def test_any_sizes_will_do(name):
    rng = dd.generator("odd")
    labels = torch.arange(2).repeat_interleave(torch.tensor([7, 2]))
    real = dd.RealData(
        torch.rand(9, 1, 9, 13, generator=rng), labels, class_names=("a", "b"), preprocess=dd.Preprocess.unit(1)
    )
    make = dd.network_factory("convnet", real.image_shape, 2, width=3, depth=2)
    recipe = RECIPES[name](ipc=2, **RECIPE_SETTINGS[name])
    found = dd.distill(recipe, real, make_student=make, seed=0)
    assert bool(torch.isfinite(found.images).all())
    assert len(found.images) in (4, 16)


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("network", ["mlp", "resnet10"])
def test_other_networks_will_do(tiny, name, network):
    options = {"norm": "batch"} if network == "resnet10" else {"width": 8}
    make = dd.network_factory(network, tiny.image_shape, 3, **options)
    fields = RECIPE_SETTINGS[name] | {"steps": 1}
    run = Run(RECIPES[name](ipc=1, **fields), tiny, make_student=make, seed=0).distillation
    before = copy.deepcopy(run.plan.syn.state_dict())
    losses = [s.loss for s in run]
    assert all(math.isfinite(loss) for loss in losses)
    assert any(not torch.equal(before[k], v) for k, v in run.plan.syn.state_dict().items())


SCALED = {
    "cafe": {"steps": 8, "augmentation": "", "real_batch": 64, "student_epochs": 1, "start": "real"},
    "datadam": {"steps": 12, "augmentation": "", "real_batch": 64, "image_lr": 0.1},
    "m3d": {"steps": 20, "augmentation": "", "real_batch": 64, "steps_per_student": 20},
}


@pytest.mark.parametrize("name", SCALED)
def test_the_loss_falls_under_one_network(digits, make_digit_student, name):
    train, _ = digits
    recipe = RECIPES[name](ipc=2, **SCALED[name])
    plan = recipe.plan(train, make_student=make_digit_student, rng=dd.generator("plan"))
    one = FreshStudents(make_digit_student, period=1000)
    run = dd.Distillation(dataclasses.replace(plan, students=one), train, rng=dd.generator("run"))
    losses = [s.loss for s in run]
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])


# Refusals


def test_refusals(tiny, make_student):
    images = tiny.batch(torch.arange(2))
    plain = torch.nn.Flatten()
    with pytest.raises(TypeError, match="body"):
        layer_means(plain, images, graph=False)
    with pytest.raises(TypeError, match="activation layers"):
        AttentionMaps()(plain, images, graph=False)
    with pytest.raises(TypeError, match="embed"):
        all_features(plain, images, graph=False)
    with pytest.raises(ValueError, match="power must be positive and finite, got 0"):
        AttentionMaps(0)
    with pytest.raises(ValueError, match=r"frequencies must have shape \(F, T\), got \(3,\)"):
        CharacteristicFunction(torch.zeros(3))
    with pytest.raises(ValueError, match="weights must be at least one number"):
        LayerSquares(())
    with pytest.raises(ValueError, match="scales must be positive and finite, got 0"):
        GaussianMMD((1.0, 0.0))
    with pytest.raises(ValueError, match="phase must be finite and not negative, got -1"):
        CharacteristicDistance(phase=-1)
    with pytest.raises(ValueError, match="real_batch must be at least 1, got 0"):
        Discrimination(real_batch=0)
    with pytest.raises(ValueError, match="images must be at least 1, got 0"):
        accuracy_on(0)
    for name in ("queue", "first", "push_every", "trained"):
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            queue(make_student, **{name: 0})
    for name, value in (("longest", 0), ("most_lessons", -1), ("window", 1), ("settled", 0.0), ("moved", -1.0)):
        with pytest.raises(ValueError, match=f"^{name} must"):
            plateau(make_student, **{name: value})


BAD = {
    "cafe": {"discrimination": -1.0, "early_weight": float("nan"), "decay": 0.0, "moved": 0.0},
    "idm": {"queue": 0, "push_every": 0, "factor": 0, "class_weight": -1.0, "student_momentum": 1.0},
    "datadam": {"power": 0.0, "output_weight": -1.0, "scale": 0.0},
    "m3d": {"steps_per_student": 0, "factor": 0},
    "ncfm": {"pool": 0, "frequencies": 0, "amplitude_weight": 1.5, "calibration": -1.0, "pool_lr": 0.0},
}


@pytest.mark.parametrize(("name", "field"), [(n, f) for n, fields in BAD.items() for f in fields])
def test_a_bad_field_is_refused_by_its_name(name, field):
    with pytest.raises(ValueError, match=f"^{field} must "):
        RECIPES[name](**{field: BAD[name][field]})
