"""One contract for every recipe and baseline: what goes in, what comes out, what stays untouched."""

from __future__ import annotations

import dataclasses
import gc
import json
import weakref

import numpy as np
import pytest
import torch
from every_method import IPC, ITERATIVE, METHODS, TINY, fields
from stored_sets import bounded, one_image_a_slot, stored
from tiny_recipes import BASELINE_SETTINGS, RECIPE_SETTINGS

import ddsdk as dd
from ddsdk.artefact import assemble
from ddsdk.baselines import BASELINES
from ddsdk.foundation import derive
from ddsdk.foundation.errors import DivergedError
from ddsdk.objectives import ClassMatch, CrossEntropy, FitAndTest, ImplicitRegression, WeightedSum, weight_gradients
from ddsdk.recipes import RECIPES, IterativeRecipe
from ddsdk.running import ObjectiveSchedule
from ddsdk.running.run import Run
from ddsdk.synthetic import FixedLabels, LearnedLabels
from ddsdk.synthetic.set import LeafView


def plan_of(recipe, real, make_student):
    """The plan that a call with the generator "run" follows."""
    rng = derive(dd.generator("run"), "plan")
    return recipe.plan(real, make_student=make_student, rng=rng)


def pieces_of(value):
    """Every part of a plan that is a value of ddsdk, however deep it lies."""
    if isinstance(value, tuple | list):
        parts = value
    elif isinstance(value, dict):
        parts = value.values()
    elif type(value).__module__.startswith("ddsdk."):
        yield value
        parts = vars(value).values() if hasattr(value, "__dict__") else ()
    else:
        parts = ()
    for part in parts:
        if not isinstance(part, torch.nn.Module | dd.RealData):
            yield from pieces_of(part)


def test_the_table_is_whole():
    assert set(RECIPE_SETTINGS) == set(RECIPES)
    assert set(BASELINE_SETTINGS) == set(BASELINES)


def test_the_smallest_settings_take_two_steps(recipe, tiny, make_student):
    assert plan_of(recipe, tiny, make_student).steps == 2


def test_a_method_knows_its_name_on_the_command_line():
    assert {kind.name: kind for kind in METHODS.values()} == METHODS


def test_a_student_of_ones_own_is_named(tiny, make_student):
    def own(rng):
        return make_student(rng)

    found = dd.distill(dd.DM(ipc=1, steps=1), tiny, make_student=own, seed=0)
    assert found.provenance["student"]["network"].endswith("own")


@pytest.mark.parametrize(
    ("options", "recorded"), [({"width": 3}, {"network": "own", "options": {"width": 3}}), (3, {"network": "Own"})]
)
def test_a_factory_with_a_name_and_options_is_recorded_by_them(options, recorded, tiny, make_student):
    class Own:
        name = "own"

        def __call__(self, rng):
            return make_student(rng)

    own = Own()
    own.options = options
    found = dd.distill(dd.DM(ipc=1, steps=1), tiny, make_student=own, seed=0)
    assert found.provenance["student"] == recorded


@pytest.mark.parametrize("kind", [dd.DM, dd.DSA])
def test_images_are_flipped_where_the_data_is_mirror_safe(kind, tiny, make_student):
    for flipped in (True, False):
        tiny = tiny.with_mirror_safe(flipped)
        recipe = kind(ipc=1)
        plan = recipe.plan(tiny, make_student=make_student, rng=dd.generator(0))
        strategies = [plan.objective.augmentation.strategy, recipe.protocol(tiny).augmentation]
        assert [("flip" in s.split("_")) for s in strategies] == [flipped, flipped]
        assert strategies[0] == strategies[1]
        assert kind(ipc=1, augmentation="flip").protocol(tiny).augmentation == "flip"
        assert not kind(ipc=1, augmentation="").protocol(tiny).augmentation
    assert not dd.DC(ipc=1).protocol(tiny).augmentation


@pytest.mark.parametrize("key", ITERATIVE)
def test_what_is_derived_from_the_data_flips_where_it_is_mirror_safe(key, tiny, make_student):
    recipe = RECIPES[key](ipc=1, **RECIPE_SETTINGS[key])
    if "augmentation" not in fields(recipe) or recipe.augmentation is not None:
        return
    for flips in (False, True):
        tiny = tiny.with_mirror_safe(flips)
        plan = recipe.plan(tiny, make_student=make_student, rng=dd.generator(0))
        drawn = [p for p in pieces_of([plan, plan.objective_at(0)]) if isinstance(p, dd.Augmentation)]
        # NCFM matches with the operations of its authors, which never flip.
        strategies = [a.strategy for a in drawn if a.strategy and key != "ncfm"]
        strategies.append(recipe.protocol(tiny).augmentation)
        for strategy in strategies:
            assert ("flip" in strategy.replace("+", "_").split("_")) == flips


def test_every_synthetic_image_moves_at_a_large_ipc(make_student):
    images = torch.rand(600, 3, 8, 12, generator=dd.generator("many"))
    real = dd.RealData(
        images, torch.arange(2).repeat_interleave(300), class_names=("a", "b"), preprocess=dd.Preprocess.unit(3)
    )
    make = dd.network_factory("convnet", real.image_shape, 2, width=2, depth=1)
    run = Run(dd.DM(ipc=300, steps=1, real_batch=4), real, make_student=make, seed=0).distillation
    before = run.plan.syn.parametrization.images.detach().clone()
    next(run)
    assert bool((run.plan.syn.parametrization.images != before).flatten(1).any(1).all())


def test_a_run_that_diverges_hands_over_its_last_finite_set(recipe, tiny, make_student):
    if "image_lr" not in fields(recipe):
        return
    wild = dataclasses.replace(recipe, image_lr=1e30)
    plan = plan_of(wild, tiny, make_student)
    # Nothing diverges in a set that is clamped, whose steps are left out or that moves class by class.
    safe = bounded(plan.syn) or plan.skip_above is not None or isinstance(plan.objective, ObjectiveSchedule)
    # Nor where ridge regression in float64 divides by the scale of the images.
    safe = safe or isinstance(plan.objective, FitAndTest | ImplicitRegression)
    try:
        found = dd.distill(wild, tiny, make_student=make_student, seed=dd.generator("run"))
    except DivergedError as error:
        assert error.syn.is_finite()
    else:
        assert safe
        assert torch.isfinite(found.images).all()


def test_a_method_is_a_frozen_value_with_its_paper(method):
    assert method == dataclasses.replace(method)
    with pytest.raises(dataclasses.FrozenInstanceError):
        method.ipc = 3
    assert len(type(method).__doc__.strip().splitlines()[0]) > 10
    with pytest.raises(TypeError):
        type(method)(3)


def owners_in_order(found):
    """Class by class, or batch by batch with one image of each class where the order is part of the set."""
    each = len(found.images) // 3
    stored_order = found.protocol.get("order") == "stored"
    return [0, 1, 2] * each if stored_order else [0] * each + [1] * each + [2] * each


def check_plain_pixels(found):
    assert len(found.images) == 3 * IPC
    assert found.stored_floats == found.images.numel()
    assert torch.equal(found.labels, torch.eye(3)[found.owner])
    assert found.learned_lr is None


def check_what_the_plan_promised(recipe, real, make_student, found):
    """The artefact is what the run stores in the end: no more, no less, nothing left out."""
    rng = dd.generator("run")
    run = Run(recipe, real, make_student=make_student, seed=rng).distillation
    assert len(list(run)) == 2
    assert run.record().items() <= found.provenance.items()
    assert (run.index, run.rate_reductions, run.diverged) == (2, 0, False)
    assert run.skipped == 0 or run.plan.skip_above is not None
    syn = run.result
    images, owners = syn.parametrization.decode(torch.arange(len(syn)), derive(rng, "export"))
    assert torch.equal(found.images, images)
    assert torch.equal(found.owner, syn.classes[owners])
    rows = syn.labels.rows(owners)
    assert torch.equal(found.labels, rows)
    if bool(((rows == 0) | (rows == 1)).all()):
        assert torch.equal(rows, torch.eye(3)[found.owner])
    assert found.label_space == syn.labels.space
    if found.label_space == "probabilities":
        torch.testing.assert_close(rows.sum(1), torch.ones(len(rows)))
    assert found.stored_floats == sum(t.numel() for t in stored(syn.parametrization).values() if t.is_floating_point())
    if one_image_a_slot(syn):
        assert found.stored_floats == found.images.numel()
    assert found.learned_lr == (None if syn.rate is None else pytest.approx(syn.rate.rates, rel=1e-6))


def test_a_set_comes_out_whole(method, tiny, make_student):
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    state = torch.get_rng_state()
    real_before = tiny.fingerprint
    found = dd.distill(method, tiny, make_student=make_student, seed=dd.generator("run"))

    assert isinstance(found, dd.Distilled)
    assert found.images.shape[1:] == tiny.image_shape
    assert found.images.dtype == torch.float32
    assert torch.isfinite(found.images).all()
    each = len(found.images) // 3
    assert found.owner.tolist() == owners_in_order(found)
    assert each >= IPC
    assert found.ipc == each
    assert found.class_names == tiny.class_names
    assert found.preprocess == tiny.preprocess
    assert dd.TrainingProtocol.from_dict(found.protocol) == method.protocol(tiny)
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
        "edges": "zeros",
        "doubling": False,
    }
    if isinstance(method, IterativeRecipe):
        check_what_the_plan_promised(method, tiny, make_student, found)
    else:
        check_plain_pixels(found)
    assert about["parameters"] == json.loads(json.dumps(dataclasses.asdict(method)))
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
    again = dd.distill(method, tiny, make_student=make_student, seed=dd.generator("run"))
    assert again.content_id == found.content_id


def test_networks_that_are_trained_beforehand_are_those_that_the_recipe_names(
    method, tiny, make_student, tmp_path, monkeypatch
):
    monkeypatch.setenv("DDSDK_CACHE", str(tmp_path))
    rng = dd.generator("run")
    runs = Run(method, tiny, make_student=make_student, seed=rng).runs
    assert list(tmp_path.iterdir()) == []
    made = [] if runs is None else list(runs.make())
    files = {p: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    assert len(files) == (0 if runs is None else len(runs))
    found = dd.distill(method, tiny, make_student=make_student, seed=rng)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.iterdir()} == files
    if runs is None:
        assert "runs" not in found.provenance
        return
    assert made[-1].done == made[-1].total
    assert found.provenance["runs"] == {"count": len(runs), "seconds": round(runs.seconds, 3)}
    # Their time is part of the method's, whenever they were trained.
    assert found.provenance["seconds"] >= round(runs.seconds, 3)


def test_a_set_survives_the_disk(method, tiny, make_student, tmp_path):
    found = dd.distill(method, tiny, make_student=make_student, seed=dd.generator("run"))
    content_id = found.save(tmp_path / "set")
    opened = dd.Distilled.load(tmp_path / "set")
    assert opened.content_id == content_id == found.content_id
    assert torch.equal(opened.images, found.images)
    assert torch.equal(opened.labels, found.labels)
    assert opened.provenance == found.provenance


def test_one_image_of_each_class_is_enough(method, tiny, make_student):
    one = dataclasses.replace(method, ipc=1)
    found = dd.distill(one, tiny, make_student=make_student, seed=dd.generator("run"))
    assert found.owner.tolist() == owners_in_order(found)
    assert torch.isfinite(found.images).all()


@pytest.mark.parametrize("name", [name for name in BASELINES if name != "means"])
def test_a_baseline_takes_distinct_real_images_of_the_right_class(name, tiny, make_student):
    method = BASELINES[name](ipc=5, **TINY[name])
    found = dd.distill(method, tiny, make_student=make_student, seed=dd.generator("run"))
    for c in range(3):
        members = tiny.batch(tiny.index_of_class(c)).x
        mine = found.images[found.owner == c]
        places = [int((members == image).flatten(1).all(1).nonzero()) for image in mine]
        assert len(set(places)) == 5


def test_the_baseline_of_means_gives_the_mean_image_of_each_class(tiny, make_student):
    found = dd.distill(
        BASELINES["means"](ipc=1, **TINY["means"]), tiny, make_student=make_student, seed=dd.generator("run")
    )
    for c in range(3):
        mean = tiny.batch(tiny.index_of_class(c)).x.mean(0)
        assert torch.allclose(found.images[found.owner == c][0], mean, atol=1e-5)


@pytest.mark.parametrize("kind", ["soft", "learned"])
def test_labels_can_be_swapped(recipe, tiny, make_student, kind):
    """Learned labels move where the loss depends on them, and nowhere else."""
    plan = recipe.plan(tiny, make_student=make_student, rng=dd.generator("plan"))
    slots = torch.arange(len(plan.syn))
    rows = plan.syn.labels.rows(slots).detach()
    space = plan.syn.labels.space
    soft = FixedLabels(0.7 * rows + 0.1, space=space)
    labels = {"soft": soft, "learned": LearnedLabels(2 * rows)}[kind]

    def with_labels(labels):
        learned = (plan.syn.rate, plan.syn.scale)
        return dd.SyntheticSet(plan.syn.parametrization, labels, plan.syn.classes, 3, *learned)

    syn, other = with_labels(labels), with_labels(FixedLabels(rows.roll(1, 1), space=space))
    if not any(p.requires_grad for p in syn.parameters()):
        return  # real images with fixed labels learn nothing
    before = labels.rows(slots).detach().clone()
    depends = []

    def watched(step):
        def objective(student, real, source, rng):
            losses = [
                sum(float(term.detach()) for term in plan.objective_at(step)(student, real, leaves, rng))
                for leaves in (LeafView(syn), LeafView(other))
            ]
            depends.append(losses[0] != losses[1])
            yield from plan.objective_at(step)(student, real, source, rng)

        return objective

    watching = dataclasses.replace(plan, syn=syn, objective=ObjectiveSchedule(watched))
    run = dd.Distillation(watching, tiny, rng=dd.generator("run"))
    assert len(list(run)) == len(depends) == plan.steps
    moved = not torch.equal(labels.rows(slots), before)
    assert moved == (kind == "learned" and any(depends))
    found = assemble(recipe, run.result, tiny, protocol=recipe.protocol(tiny), rng=dd.generator("run"), seconds=0.0)
    if found.label_space == "probabilities":
        torch.testing.assert_close(found.labels.sum(1), torch.ones(len(found.labels)))


def test_the_rows_of_the_table_that_read_labels(tiny, make_student):
    """What the test above finds out by trying, said by hand for three methods."""
    for key, reads in (("dc", True), ("dsa", True), ("dm", False)):
        plan = RECIPES[key](ipc=1, **RECIPE_SETTINGS[key]).plan(tiny, make_student=make_student, rng=dd.generator(0))
        assert (plan.objective.byproduct is weight_gradients) == reads


def terms_of(objective, plan):
    """How many terms one call yields, where it can be said beforehand."""
    if isinstance(objective, ClassMatch):
        classes = range(3) if objective.classes is None else objective.classes
        return sum(bool((plan.syn.classes == c).any()) for c in classes)
    if isinstance(objective, CrossEntropy):
        return 3
    if isinstance(objective, WeightedSum):
        known = [terms_of(part, plan) for weight, part in objective.parts if weight]
        sure = all(n is not None for n in known) and not any(callable(w) for w, _ in objective.parts)
        return sum(known) if sure else None
    return None


def test_no_graph_outlives_its_term(recipe, tiny, make_student):
    """The working set is that of one class: when a term is yielded, the one before it is gone."""
    plan = recipe.plan(tiny, make_student=make_student, rng=dd.generator("plan"))
    alive = []

    def watched(step):
        def objective(student, real, syn, rng):
            graphs = []
            alive.append([])
            for term in plan.objective_at(step)(student, real, syn, rng):
                gc.collect()
                alive[-1].append(sum(ref() is not None for ref in graphs))
                graphs.append(weakref.ref(term))
                yield term
                del term

        return objective

    watching = dataclasses.replace(plan, objective=ObjectiveSchedule(watched))
    # A collection visits what the run made, and not every module of the process once more.
    gc.collect()
    gc.freeze()
    try:
        list(dd.Distillation(watching, tiny, rng=dd.generator("run")))
    finally:
        gc.unfreeze()
    for step, counts in enumerate(alive):
        # The loop's own name for the last term is bound until the next one arrives.
        assert max(counts) <= 1
        wanted = terms_of(plan.objective_at(step), plan)
        assert wanted is None or len(counts) == wanted
