"""The run: warm starts before the loop copies anything, estimates that leave it alone, budgets, stops and seeds."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tiny_recipes import RECIPE_SETTINGS
from wrapped_recipes import Poisoned

import ddsdk as dd
from ddsdk.data.sources import RealData
from ddsdk.recipes.registry import RECIPES
from ddsdk.running.run import Run
from ddsdk.synthetic import labels as label_kinds
from ddsdk.synthetic import start as starts
from ddsdk.synthetic.multiformation import MultiFormation
from ddsdk.synthetic.pixels import Pixels
from ddsdk.synthetic.rate import LearnedRate

STILL = {"steps": 1, "real_batch": 4, "image_lr": 1e-12}


def levels(real: RealData, ipc: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Return grey images of the unit range, brighter class by class."""
    classes = torch.arange(real.num_classes).repeat_interleave(ipc)
    images = (classes.float() + 1)[:, None, None, None].expand(-1, *real.image_shape) / (real.num_classes + 1)
    return images.clone(), classes


@pytest.mark.parametrize("average", [None, 0.99])
@pytest.mark.parametrize("undone", [False, True])
@pytest.mark.parametrize("form", ["tensors", "artefact", "set"])
def test_a_warm_start_is_what_the_average_and_the_undo_go_back_to(tiny, make_student, average, undone, form):
    images, classes = levels(tiny)
    start = (images, classes)
    if form != "tensors":
        syn = dd.SyntheticSet(Pixels(tiny.preprocess(images)), label_kinds.hard_labels(classes, 3), classes, 3)
        start = syn
        if form == "artefact":
            start = dd.distill(dd.DM(ipc=1, **STILL), tiny, make_student=make_student, start=syn)
    found = dd.distill(
        dd.DM(ipc=1, **STILL, average=average),
        tiny,
        make_student=make_student,
        start=start,
        transform=(lambda p: dataclasses.replace(p, objective=Poisoned(p.objective, 1, []))) if undone else None,
    )
    assert found.provenance["rate_reductions"] == int(undone)
    assert torch.allclose(found.unit_images(), images, atol=1e-5)
    assert found.provenance["start"]["images"] == 3


# Two have no steps, and three store the latents of a generator.
STORES_IMAGES = [key for key in RECIPES if key not in ("krr", "rded", "gtn", "it-gan", "glad")]


@pytest.mark.parametrize("key", STORES_IMAGES)
def test_every_recipe_starts_from_a_set_that_is_given(key, tiny, make_student):
    settings = dict(RECIPE_SETTINGS[key])
    # Decoders are fitted to the images that they start from.
    settings |= {name: 100 for name in ("fit_steps",) if name in settings}
    method = RECIPES[key](ipc=2, **settings)
    images, classes = levels(tiny, ipc=16)

    def distance(start):
        run = Run(method, tiny, make_student=make_student, start=start)
        list(run.prepare())
        syn = run.distillation.plan.syn
        decoded, owners = syn.parametrization.decode(torch.arange(len(syn)), dd.generator("decode"))
        unit = tiny.preprocess.inverse(decoded.detach())
        places = syn.classes[owners]
        wanted = images[classes == 0][:1] * 0 + (places.float() + 1)[:, None, None, None] / 4
        return float((unit - wanted).abs().mean())

    assert distance((images, classes)) < 0.7 * distance(None)


def test_a_warm_start_fills_what_it_can_and_says_what_it_left_out(tiny, make_student):
    images, classes = levels(tiny, ipc=3)
    some = classes > 0
    recipe = dd.DM(ipc=2, **STILL)
    cold = dd.distill(recipe, tiny, make_student=make_student)
    found = dd.distill(recipe, tiny, make_student=make_student, start=(images[some], classes[some]))
    assert found.provenance["start"] == {"images": 4, "left_out": 2}
    assert torch.allclose(found.images[:2], cold.images[:2], atol=1e-6)
    assert torch.allclose(found.unit_images()[2:], images[some][[0, 1, 3, 4]], atol=1e-5)


def test_canvases_go_on_exactly_from_canvases(tiny, make_student):
    recipe = dd.IDC(ipc=2, **{**RECIPE_SETTINGS["idc"], "steps": 1}, image_lr=1e-12, factor=2)
    canvases = torch.randn(3, *tiny.image_shape, generator=dd.generator("canvases"))
    classes = torch.tensor([0, 2, 2])
    start = dd.SyntheticSet(MultiFormation(canvases, 2), label_kinds.hard_labels(classes, 3), classes, 3)
    run = Run(recipe, tiny, make_student=make_student, start=start)
    stored = run.distillation.plan.syn.parametrization.canvases
    assert torch.equal(stored[0], canvases[0])
    assert torch.equal(stored[4:], canvases[1:])


def test_a_set_of_the_same_form_is_copied_whole(tiny, make_student):
    recipe = dd.RaTBPTT(ipc=1, **RECIPE_SETTINGS["rat-bptt"])
    first = Run(recipe, tiny, make_student=make_student, seed=1)
    list(first)
    state = first.distillation.result.state_dict()
    again = Run(recipe, tiny, make_student=make_student, start=first.distillation.result)
    for name, value in again.distillation.plan.syn.state_dict().items():
        assert torch.equal(value, state[name]), name


def test_fixed_labels_of_another_space_stay(tiny, make_student):
    """Scores and one-hot rows are tensors of one shape: a set with hard labels gives its images alone."""
    recipe = dd.KIP(ipc=2, **RECIPE_SETTINGS["kip"], learn_labels=False)
    own = Run(recipe, tiny, make_student=make_student).distillation.plan.syn
    images, classes = levels(tiny, ipc=2)
    start = dd.SyntheticSet(Pixels(tiny.preprocess(images)), label_kinds.hard_labels(classes, 3), classes, 3)
    begun = Run(recipe, tiny, make_student=make_student, start=start).distillation.plan.syn
    slots = torch.arange(6)
    assert torch.equal(begun.labels.rows(slots), own.labels.rows(slots))
    assert torch.equal(begun.parametrization.images, start.parametrization.images)


def test_canvases_of_other_tiles_are_not_copied(tiny, make_student):
    recipe = dd.IDC(ipc=2, **{**RECIPE_SETTINGS["idc"], "steps": 1}, factor=2)
    classes = torch.arange(3).repeat_interleave(2)
    canvases = torch.randn(6, *tiny.image_shape, generator=dd.generator("canvases"))
    start = dd.SyntheticSet(MultiFormation(canvases, 3), label_kinds.hard_labels(classes, 3), classes, 3)
    syn = Run(recipe, tiny, make_student=make_student, start=start).distillation.plan.syn
    (first, *_), _ = start.parametrization.decode(torch.arange(6), dd.generator("decode"))
    (rate_reductions, *_), _ = syn.parametrization.decode(torch.arange(6), dd.generator("decode"))
    assert not torch.equal(syn.parametrization.canvases, canvases)
    assert float((rate_reductions - first).detach().abs().mean()) < 0.5 * float(first.detach().abs().mean())


def test_labels_and_rates_of_an_artefact_come_along_where_they_are_learned(tiny, make_student):
    made = dd.distill(dd.FRePo(ipc=1, **RECIPE_SETTINGS["frepo"]), tiny, make_student=make_student, seed=3)
    run = Run(dd.FRePo(ipc=1, **RECIPE_SETTINGS["frepo"]), tiny, make_student=make_student, start=made)
    assert torch.equal(run.distillation.plan.syn.labels.values.detach(), made.labels)
    assert run.distilled().provenance["start"]["set"] == made.content_id

    settings = {**RECIPE_SETTINGS["mtt"], "steps": 1}
    moved = dataclasses.replace(
        dd.distill(dd.MTT(ipc=1, **settings), tiny, make_student=make_student), learned_lr=0.0625
    )
    run = Run(dd.MTT(ipc=1, **settings), tiny, make_student=make_student, start=moved)
    assert run.distillation.plan.syn.rate.rates == 0.0625


def test_what_a_learned_label_or_rate_takes_is_what_it_gives():
    rows = torch.tensor([[0.2, 0.8], [1.0, 0.0]])
    for kind in (label_kinds.LearnedLabels(torch.zeros(3, 2)), label_kinds.SimplexLabels(torch.full((3, 2), 0.5))):
        assert kind.assign_(torch.tensor([0, 2]), rows)
        assert torch.allclose(kind.rows(torch.tensor([0, 2])), rows, atol=1e-6)
        assert torch.allclose(kind.rows(torch.tensor([1])), torch.tensor([[0.5, 0.5]]))
    assert not label_kinds.hard_labels(torch.tensor([0]), 2).assign_(torch.tensor([0]), rows[:1])
    for scale in ("plain", "log", "softplus"):
        rate = LearnedRate(0.1, low=1e-4, high=1.0, scale=scale)
        assert rate.assign_(0.5)
        assert rate.rates == pytest.approx(0.5, rel=1e-5)
        assert not rate.assign_((0.5, 0.5))
        assert not rate.assign_(None)
    rates = LearnedRate(0.1, steps=2, momentum=0.5)
    assert rates.assign_((0.2, 5.0), (0.1, 0.2))
    assert rates.rates == pytest.approx((0.2, 1.0))
    assert rates.momenta == pytest.approx((0.1, 0.2))


def test_a_warm_start_from_another_value_space_keeps_the_pixels(tiny, make_student):
    other = tiny.with_preprocess(dd.Preprocess.normalise([0.1, 0.2, 0.3], [0.5, 0.4, 0.3]))
    made = dd.distill(dd.DM(ipc=1, **STILL), other, make_student=make_student)
    found = dd.distill(dd.DM(ipc=1, **STILL), tiny, make_student=make_student, start=made)
    assert torch.allclose(found.unit_images(), made.unit_images(), atol=1e-5)


def test_warm_starts_that_do_not_fit_are_refused(tiny, digits, make_student):
    images, classes = levels(tiny)
    made = dd.distill(dd.DM(ipc=1, steps=1, real_batch=4), digits[0])
    wrong = {
        "have the classes": made,
        "hold images of shape": (images[:, :, :4], classes),
        "hold classes of": (images, classes + 1),
        "hold 3 int64 class ids": (images, classes.float()),
        "unit range": (images * 2, classes),
        r"hold images \(M, C, H, W\)": (images[0], classes),
    }
    for rule, start in wrong.items():
        with pytest.raises(ValueError, match=f"^start must .*{rule}"):
            dd.distill(dd.DM(ipc=1, **STILL), tiny, make_student=make_student, start=start)


@pytest.mark.parametrize("key", ["dm", "dc", "idc", "idm", "ncfm", "frepo", "ld", "acc-dd"])
def test_an_estimate_leaves_the_run_as_it_was(key, tiny, make_student):
    method = RECIPES[key](ipc=2, **{**RECIPE_SETTINGS[key], "average": 0.9})
    plain = Run(method, tiny, make_student=make_student).complete()
    run = Run(method, tiny, make_student=make_student)
    list(run.prepare())
    assert run.estimate().seconds > 0
    assert run.distillation.index == 0
    assert run.complete().content_id == plain.content_id


def test_an_estimate_validates_nothing(tiny, make_student):
    rest, held = tiny.split(0.3, dd.generator("split"))
    run = Run(
        dd.DM(ipc=1, steps=2, real_batch=4),
        rest,
        make_student=make_student,
        validation=dd.Validation(held=held, every=1, epochs=1, width=4),
    )
    run.estimate()
    assert run.distillation.validations == ()
    list(run)
    assert [step for step, _ in run.distillation.validations] == [0, 1, 2]


def test_a_budget_covers_the_validations_and_spreads_them(tiny, make_student):
    rest, held = tiny.split(0.3, dd.generator("split"))
    validation = dd.Validation(held=held, every=1, epochs=1, width=4)
    recipe = dd.DM(ipc=1, steps=10**6, real_batch=4)
    run = Run(recipe, rest, make_student=make_student, validation=validation)
    fit = run.fit(3.0)
    ((step, score),) = run.distillation.validations
    assert step == 0
    steps = [step.number for step in run]
    assert len(steps) == fit.estimate.steps
    every = -(-len(steps) // 5)
    assert [step for step, _ in run.distillation.validations] == [0, *range(every, len(steps), every), len(steps)]
    assert run.distillation.validations[0][1] == score
    best = max(score for _, score in run.distillation.validations)
    assert run.distilled().provenance["best_value"] == best
    # A resumed run keeps the distance of its validations.
    again = Run(run.method, rest, make_student=make_student, validation=validation)
    again.load_state_dict(run.state_dict())
    assert again.distillation.plan.validate_every == every


def test_a_budget_shortens_a_run_and_computes_its_start_once(tiny, make_student, monkeypatch):
    calls = []
    k_means = starts.STARTS["k-means"]
    monkeypatch.setitem(starts.STARTS, "k-means", lambda *a: calls.append(1) or k_means(*a))
    recipe = dd.DM(ipc=1, steps=10**6, real_batch=4, start="k-means")
    run = Run(recipe, tiny, make_student=make_student)
    fit = run.fit(2.0)
    assert fit.planned == 10**6
    assert run.method.steps == fit.estimate.steps < 10**5
    list(run)
    assert run.distillation.index == fit.estimate.steps
    assert len(calls) == 1
    short = dd.distill(run.method, tiny, make_student=make_student)
    assert run.distilled().content_id == short.content_id


def test_the_start_is_computed_anew_where_the_images_have_changed(tiny, make_student):
    recipe = dd.DM(ipc=1, **STILL)
    before = dd.distill(recipe, tiny, make_student=make_student)
    print_before = tiny.fingerprint
    tiny.replace_images_(torch.arange(len(tiny)), tiny.images.flip(0).clone())
    assert tiny.fingerprint != print_before
    assert dd.distill(recipe, tiny, make_student=make_student).content_id != before.content_id


def test_a_stop_ends_a_run_with_the_set_so_far(tiny, make_student):
    asked = []

    def stop():
        asked.append(1)
        return len(asked) > 2

    found = dd.distill(dd.DM(ipc=1, steps=50, real_batch=4), tiny, make_student=make_student, stop=stop)
    assert found.provenance["steps_done"] == 2
    two = dd.distill(dd.DM(ipc=1, steps=2, real_batch=4), tiny, make_student=make_student)
    assert found.content_id == two.content_id


def test_an_integer_and_its_generator_are_the_same_seed(tiny):
    recipe = dd.DM(ipc=1, steps=1, real_batch=4)
    one, same, other = (dd.distill(recipe, tiny, seed=s) for s in (5, dd.generator(5), 6))
    assert one.content_id == same.content_id != other.content_id
    # No factory was named: the students are those of the recipe's own protocol.
    assert one.provenance["student"]["options"]["width"] == 128
    assert one.provenance["seconds"] > 0


def test_what_a_run_resumes_from_holds_its_time(tiny, make_student):
    recipe = dd.DM(ipc=1, steps=4, real_batch=4)
    whole = Run(recipe, tiny, make_student=make_student).complete()
    first = Run(recipe, tiny, make_student=make_student)
    next(first)
    state = first.state_dict()
    second = Run(recipe, tiny, make_student=make_student)
    second.load_state_dict(state)
    assert second.seconds == first.seconds > 0
    assert second.complete().content_id == whole.content_id
