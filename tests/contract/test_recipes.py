"""One contract for every recipe and baseline: what goes in, what comes out, what stays untouched."""

from __future__ import annotations

import dataclasses
import gc
import weakref

import numpy as np
import pytest
import torch

import ddsdk as dd
from ddsdk.baselines import BASELINES
from ddsdk.errors import DivergedError
from ddsdk.recipes import RECIPES

IPC = 2
TINY = {
    "dc": {"students": 1, "steps_per_student": 2, "student_epochs": 1, "real_batch": 4},
    "dsa": {"students": 1, "steps_per_student": 2, "student_epochs": 1, "real_batch": 4},
    "dm": {"steps": 2, "real_batch": 4},
    "random": {},
    "herding": {"student_epochs": 1},
    "k-center": {"student_epochs": 1},
    "k-means": {},
    "grand": {"students": 2},
    "el2n": {"students": 2},
}
METHODS = {**RECIPES, **BASELINES}
ITERATIVE = sorted(RECIPES)


@pytest.fixture(params=TINY)
def method(request):
    return METHODS[request.param](ipc=IPC, **TINY[request.param])


@pytest.fixture(params=ITERATIVE)
def recipe(request):
    return RECIPES[request.param](ipc=IPC, **TINY[request.param])


def test_the_table_is_whole():
    assert set(TINY) == set(METHODS)


def test_a_method_knows_its_name_on_the_command_line():
    assert {kind.name: kind for kind in METHODS.values()} == METHODS


def test_a_student_of_ones_own_is_named(tiny, make_student):
    def own(rng):
        return make_student(rng)

    found = dd.DM(ipc=1, steps=1)(tiny, make_student=own, rng=dd.generator(0))
    assert found.provenance["student"]["network"].endswith("own")


NAN = float("nan")
COUNTS = {
    "ipc": (0, "must be at least 1, got 0"),
    "steps": (0, "must be at least 1, got 0"),
    "students": (0, "must be at least 1, got 0"),
    "steps_per_student": (0, "must be at least 1, got 0"),
    "student_epochs": (-1, "must be at least 0, got -1"),
    "real_batch": (0, "must be at least 1, got 0"),
}


@pytest.mark.parametrize("kind", METHODS.values(), ids=METHODS)
@pytest.mark.parametrize("name", COUNTS)
def test_a_count_that_is_none_is_refused_by_its_name(kind, name):
    if name not in {f.name for f in dataclasses.fields(kind)}:
        return
    small, rule = COUNTS[name]
    with pytest.raises(ValueError, match=f"^{name} {rule}$"):
        kind(**{name: small})
    for value in (1.5, "3", True):
        with pytest.raises(ValueError, match=f"^{name} must be an integer, got {value!r}$"):
            kind(**{name: value})


@pytest.mark.parametrize("kind", RECIPES.values(), ids=RECIPES)
@pytest.mark.parametrize("value", [NAN, -1.0, 0.0, float("inf"), "1"])
def test_a_rate_that_is_none_is_refused_by_its_name(kind, value):
    for name in {"image_lr", "student_lr"} & {f.name for f in dataclasses.fields(kind)}:
        with pytest.raises(ValueError, match=f"^{name} must be positive and finite, got "):
            kind(**{name: value})
    with pytest.raises(ValueError, match=r"^image_momentum must lie in 0 <= value < 1, got 1$"):
        kind(image_momentum=1)


def test_a_seed_in_place_of_a_generator_is_refused(method, tiny, make_student):
    with pytest.raises(TypeError, match=r"rng must be a torch.Generator such as ddsdk.generator\(0\), got 0"):
        method(tiny, make_student=make_student, rng=0)


@pytest.mark.parametrize("kind", [dd.DM, dd.DSA])
def test_characters_are_not_flipped(kind, tiny, make_student):
    for name in ("MNIST", "digits", "svhn", "usps", "k-mnist", "fashion-mnist", "cifar10"):
        tiny.name = name
        flipped = name in ("fashion-mnist", "cifar10")
        recipe = kind(ipc=1)
        plan = recipe.plan(tiny, make_student=make_student, rng=dd.generator(0))
        strategies = [plan.objective.augmentation.strategy, recipe.evaluation(tiny).augmentation]
        assert [("flip" in s.split("_")) for s in strategies] == [flipped, flipped]
        assert strategies[0] == strategies[1]
        assert kind(ipc=1, augmentation="flip").evaluation(tiny).augmentation == "flip"
        assert not kind(ipc=1, augmentation="").evaluation(tiny).augmentation
    assert not dd.DC(ipc=1).evaluation(tiny).augmentation


def test_every_synthetic_image_moves_at_a_large_ipc(make_student):
    images = torch.rand(600, 3, 8, 12, generator=dd.generator("many"))
    real = dd.RealData(
        images,
        torch.arange(2).repeat_interleave(300),
        class_names=("a", "b"),
        preprocess=dd.Preprocess.unit(3),
    )
    make = dd.network_factory("convnet", real.image_shape, 2, width=2, depth=1)
    run = dd.DM(ipc=300, steps=1, real_batch=4).distillation(real, make_student=make, rng=dd.generator(0))
    before = run.plan.syn.parametrization.images.detach().clone()
    next(run)
    assert bool((run.plan.syn.parametrization.images != before).flatten(1).any(1).all())


def test_a_run_that_diverges_hands_over_its_last_finite_set(recipe, tiny, make_student):
    with pytest.raises(DivergedError) as error:
        dataclasses.replace(recipe, image_lr=1e30)(tiny, make_student=make_student, rng=dd.generator(0))
    assert error.value.syn.is_finite()


def test_a_method_is_a_frozen_value_with_its_paper(method):
    assert method == dataclasses.replace(method)
    with pytest.raises(dataclasses.FrozenInstanceError):
        method.ipc = 3
    assert len(type(method).__doc__.strip().splitlines()[0]) > 10
    with pytest.raises(TypeError):
        type(method)(3)


def test_a_set_comes_out_whole(method, tiny, make_student):
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    state = torch.get_rng_state()
    real_before = tiny.fingerprint
    found = method(tiny, make_student=make_student, rng=dd.generator("run"))

    assert isinstance(found, dd.Distilled)
    assert found.images.shape == (3 * IPC, *tiny.image_shape)
    assert found.images.dtype == torch.float32
    assert found.owner.tolist() == [0, 0, 1, 1, 2, 2]
    assert torch.equal(found.labels, torch.eye(3)[found.owner])
    assert found.class_names == tiny.class_names
    assert found.preprocess == tiny.preprocess
    assert found.ipc == IPC
    assert found.stored_floats == found.images.numel()
    assert dd.Evaluation.from_dict(found.evaluation) == method.evaluation(tiny)
    about = found.provenance
    assert METHODS[about["recipe"]] is type(method)
    assert about["class"] == type(method).__name__
    assert about["student"]["network"] == "convnet"
    assert about["student"]["options"] == {
        "depth": 1,
        "width": 4,
        "norm": "instance",
        "pooling": "avg",
        "activation": "relu",
    }
    if about["recipe"] in RECIPES:
        assert (about["steps_done"], about["rate_reductions"], about["diverged"]) == (2, 0, False)
    assert about["parameters"] == dataclasses.asdict(method)
    assert about["data"] == {"name": "tiny", "fingerprint": tiny.fingerprint, "images": 20}
    assert about["rng_seed"] == dd.generator("run").initial_seed()
    assert about["device"] == "cpu"
    assert about["threads"] == 1
    assert about["seconds"] >= 0
    assert set(about["versions"]) == {"ddsdk", "torch", "numpy", "python"}
    assert tiny.fingerprint == real_before
    assert torch.equal(torch.get_rng_state(), state)

    torch.manual_seed(2)
    np.random.seed(2)  # noqa: NPY002
    again = method(tiny, make_student=make_student, rng=dd.generator("run"))
    assert again.content_id == found.content_id


def test_a_set_survives_the_disk(method, tiny, make_student, tmp_path):
    found = method(tiny, make_student=make_student, rng=dd.generator("run"))
    content_id = found.save(tmp_path / "set")
    opened = dd.Distilled.load(tmp_path / "set")
    assert opened.content_id == content_id == found.content_id
    assert torch.equal(opened.images, found.images)
    assert torch.equal(opened.labels, found.labels)
    assert opened.provenance == found.provenance


def test_one_image_of_each_class_is_enough(method, tiny, make_student):
    one = dataclasses.replace(method, ipc=1)
    found = one(tiny, make_student=make_student, rng=dd.generator("run"))
    assert found.owner.tolist() == [0, 1, 2]
    assert torch.isfinite(found.images).all()


@pytest.mark.parametrize("name", BASELINES)
def test_a_baseline_takes_distinct_real_images_of_the_right_class(name, tiny, make_student):
    method = BASELINES[name](ipc=5, **TINY[name])
    found = method(tiny, make_student=make_student, rng=dd.generator("run"))
    for c in range(3):
        members = tiny.batch(tiny.index_of_class(c)).x
        mine = found.images[found.owner == c]
        places = [int((members == image).flatten(1).all(1).nonzero()) for image in mine]
        assert len(set(places)) == 5


def test_impossible_sizes_are_refused(method, tiny, make_student):
    for ipc, message in ((0, "ipc must be at least 1, got 0"), (6, r"5 images of class 2 \('cat'\), got 6")):
        if ipc and getattr(method, "start", "real") == "noise":
            continue
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(method, ipc=ipc)(tiny, make_student=make_student, rng=dd.generator(0))


def test_an_unknown_augmentation_is_refused_before_the_run(recipe, tiny, make_student):
    wrong = dataclasses.replace(recipe, augmentation="flop")
    with pytest.raises(ValueError, match="did you mean 'flip'"):
        wrong.plan(tiny, make_student=make_student, rng=dd.generator(0))


@pytest.mark.parametrize("kind", ["soft", "learned"])
def test_labels_can_be_swapped(recipe, tiny, make_student, kind):
    plan = recipe.plan(tiny, make_student=make_student, rng=dd.generator("plan"))
    hard = plan.syn.labels.rows(torch.arange(len(plan.syn)))
    labels = {
        "soft": dd.FixedLabels(0.7 * hard + 0.1),
        "learned": dd.LearnedLabels(2 * hard),
    }[kind]
    before = labels.rows(torch.arange(len(hard))).detach().clone()
    syn = dd.SyntheticSet(plan.syn.parametrization, labels, plan.syn.classes, 3)
    run = dd.Distillation(dataclasses.replace(plan, syn=syn), tiny, rng=dd.generator("run"))
    steps = list(run)
    found = dd.assemble(
        recipe, syn, tiny, evaluation=recipe.evaluation(tiny), rng=dd.generator("run"), seconds=0.0
    )
    torch.testing.assert_close(found.labels.sum(1), torch.ones(len(hard)))
    uses_labels = plan.objective.byproduct is dd.weight_gradients
    moved = not torch.equal(found.labels, before)
    assert moved == (kind == "learned" and uses_labels)
    assert len(steps) == plan.steps


def test_no_graph_outlives_its_term(recipe, tiny, make_student):
    """The working set is that of one class: when a term is yielded, the one before it is gone."""
    plan = recipe.plan(tiny, make_student=make_student, rng=dd.generator("plan"))
    alive = []

    def watched(student, real, syn, rng):
        graphs = []
        for term in plan.objective(student, real, syn, rng):
            gc.collect()
            alive.append(sum(ref() is not None for ref in graphs))
            graphs.append(weakref.ref(term))
            yield term
            del term

    run = dd.Distillation(dataclasses.replace(plan, objective=watched), tiny, rng=dd.generator("run"))
    next(run)
    # The loop's own name for the last term is bound until the next one arrives.
    assert len(alive) == 3
    assert max(alive) <= 1
