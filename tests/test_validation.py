"""Held-out images choose the best of a run's sets; and what every iterative recipe can be asked for."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from stored_sets import equal, stored
from tiny_recipes import RECIPE_SETTINGS

import ddsdk as dd
from ddsdk.cli import main
from ddsdk.recipes import RECIPES
from ddsdk.recipes.base import IterativeRecipe
from ddsdk.running.checkpoint import pack, unpack
from ddsdk.running.run import Run
from ddsdk.synthetic import LearnedRate, Pixels, hard_labels

ITERATIVE = sorted(key for key, recipe in RECIPES.items() if issubclass(recipe, IterativeRecipe))
VALUES = {0: 0.2, 2: 0.3, 4: 0.7, 6: 0.7, 7: 0.1}
"""What a look finds after a step; the first of equals is kept."""


@pytest.fixture
def start(tiny, make_student):
    """A function that starts a run of 7 steps whose looks, every 2 steps, find `VALUES`."""

    def make(looks=True, **parts):
        recipe = dd.DM(ipc=1, steps=7, real_batch=4)
        plan = recipe.plan(tiny, make_student=make_student, rng=dd.generator("plan"))
        if looks:
            parts["validate"] = lambda syn: VALUES[run.index]
        plan = dataclasses.replace(plan, validate_every=2, **parts)
        run = dd.Distillation(plan, tiny, rng=dd.generator("run"))
        return run

    return make


def test_the_best_set_is_the_result(start):
    run, plain = start(), start(looks=False)
    states = {0: stored(run.plan.syn)}
    assert equal(stored(run.result), states[0])
    for step, other in zip(run, plain, strict=True):
        states[step.number] = stored(step.syn)
        # Looking changes nothing of the run itself.
        assert (step.loss, equal(states[step.number], stored(other.syn))) == (other.loss, True)
    assert run.validations == tuple(VALUES.items())
    assert equal(stored(run.result), states[4])
    assert not equal(stored(run.result), states[7])
    record = run.record()
    assert (record["best_step"], record["best_value"], record["steps_done"]) == (4, 0.7, 7)
    assert "best_step" not in plain.record()


def test_a_look_is_at_what_would_be_the_result(start):
    seen = []

    def finished(syn, rng):
        syn = dd.SyntheticSet(Pixels(syn.parametrization.images + 1), syn.labels, syn.classes, 3)
        seen.append(syn)
        return syn

    run = start(average=0.9, finish=finished)
    averages = {}
    for step in run:
        if step.number in VALUES:
            averages[step.number] = seen[-1].parametrization.images.detach().clone()
    found = run.result.parametrization.images
    torch.testing.assert_close(found, averages[4], rtol=0, atol=0)
    assert not torch.equal(found, run.plan.syn.parametrization.images + 1)


def test_the_best_survives_a_stop_bit_for_bit(start):
    straight = start()
    list(straight)
    for stop in range(8):
        first = start()
        for _ in range(stop):
            next(first)
        second = start()
        second.load_state_dict(unpack(*pack(first.state_dict())))
        assert second.validations == first.validations
        assert equal(stored(second.result), stored(first.result))
        list(second)
        assert second.validations == straight.validations
        assert second.record() == straight.record()
        assert equal(stored(second.result), stored(straight.result))


def test_a_look_that_fails_leaves_the_run_as_it_was(start):
    run = start(validate=None)
    wanted = [stored(step.syn) for step in run]

    def broken(syn):
        if run.index == 4:
            raise KeyboardInterrupt
        return 0.5

    run = start(looks=False, validate=broken)
    for _ in range(3):
        next(run)
    with pytest.raises(KeyboardInterrupt):
        next(run)
    assert run.index == 3
    assert equal(stored(run.plan.syn), wanted[2])
    assert run.validations == ((0, 0.5), (2, 0.5))


def test_a_start_that_no_step_exceeds_is_the_result(start):
    scores = {0: 0.8, 2: 0.3, 4: 0.8, 6: 0.7, 7: 0.1}
    run = start(looks=False, validate=lambda syn: scores[run.index])
    before = stored(run.plan.syn)
    list(run)
    assert equal(stored(run.result), before)
    assert run.record()["best_step"] == 0
    assert run.validations == tuple(scores.items())


def test_a_known_score_of_the_start_is_not_computed_again(start):
    run = start()
    run.score_start(0.25)
    assert run.validations == ((0, 0.25),)
    run.score_start(0.5)
    list(run)
    assert run.validations[:2] == ((0, 0.25), (2, 0.3))
    plain = start(looks=False)
    plain.score_start()
    assert plain.validations == ()


def test_a_look_is_an_evaluation_on_the_held_out_images(tiny):
    labels = hard_labels(torch.arange(3), 3)
    images = tiny.batch(torch.arange(3)).x
    classes = torch.arange(3)
    validation = dd.Validation(held=tiny, epochs=4, width=3, networks=2)
    protocol = dataclasses.replace(dd.TrainingProtocol.published("flip"), network_options={"depth": 1})
    look = validation.under(protocol, rng=dd.generator("look"))
    short = protocol.changed(options={"width": 3}, epochs=4, networks=2)
    for lr in (None, 0.3):
        rate = None if lr is None else LearnedRate(lr)
        syn = dd.SyntheticSet(Pixels(images), labels, classes, 3, rate)
        used = short if lr is None else dataclasses.replace(short, lr=float(syn.rate.value.detach()))
        batch = (images, torch.eye(3))
        wanted = dd.evaluate(batch, tiny, used, seed=dd.generator("look"))
        assert look(syn) == wanted.mean
        assert look(syn) == look(syn)
    # A protocol that is shorter already stays so.
    brief = dd.Validation(held=tiny, epochs=300).under(
        dataclasses.replace(protocol, epochs=2), rng=dd.generator("look")
    )
    wanted = dataclasses.replace(protocol, network_options={"depth": 1, "width": 64}, epochs=2, networks=1)
    assert (
        brief(syn)
        == dd.evaluate(
            batch, tiny, dataclasses.replace(wanted, lr=float(syn.rate.value.detach())), seed=dd.generator("look")
        ).mean
    )


def test_a_recipe_takes_the_best_by_held_out_images(tiny, make_student):
    rest, held = tiny.split(0.3, dd.generator("validation"))
    recipe = dd.DM(ipc=1, steps=4, real_batch=4)
    validation = dd.Validation(held=held, every=1, epochs=2, width=2)
    run = Run(recipe, rest, make_student=make_student, seed=0, validation=validation).distillation
    states = [stored(run.plan.syn), *(stored(step.syn) for step in run)]
    assert [step for step, _ in run.validations] == [0, 1, 2, 3, 4]
    best = run.record()["best_step"]
    assert dict(run.validations)[best] == max(value for _, value in run.validations)
    assert equal(stored(run.result), states[best])
    found = dd.distill(recipe, rest, make_student=make_student, seed=0, validation=validation)
    assert torch.equal(found.images, states[best]["parametrization.images"])
    assert found.provenance["best_step"] == best


@pytest.mark.parametrize("field", ["every", "epochs", "width", "networks"])
def test_what_cannot_be_counted_is_refused(tiny, field):
    with pytest.raises(ValueError, match=f"{field} must be at least 1, got 0"):
        dd.Validation(held=tiny, **{field: 0})


ARGS = ["distill", "--data", "digits", "--recipe", "dm", "--ipc", "1", "--width", "4", "--real-batch", "4"]
LOOKS = ["--validation", "0.2", "--validate-every", "2", "--validation-epochs", "2", "--validation-width", "4"]


def test_the_command_line_holds_images_out(tmp_path, capsys, digits):
    out = tmp_path / "set"
    assert main([*ARGS, "--steps", "3", *LOOKS, "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "start: validation accuracy " in said
    assert "step 2: " in said
    assert "step 3: " in said
    assert "the set is that of " in said
    provenance = dd.Distilled.load(out).provenance
    assert provenance["best_step"] in (0, 2, 3)
    rest, held = digits[0].split(0.2, dd.generator("validation"))
    assert provenance["data"] == {
        "name": rest.name,
        "fingerprint": rest.fingerprint,
        "images": len(digits[0]) - len(held),
    }
    assert provenance["configuration"]["validation"] == 0.2


def test_a_baseline_has_nothing_to_choose_from(tmp_path, capsys):
    args = ["distill", "--data", "digits", "--recipe", "random", "--ipc", "1", "--out", str(tmp_path / "set")]
    assert main([*args, *LOOKS]) == 2
    assert "validation must be 0 for random" in capsys.readouterr().err
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("key", ITERATIVE)
def test_every_recipe_takes_the_common_options(key, tiny, make_student):
    settings = {"ipc": 1, **RECIPE_SETTINGS[key]}
    own = RECIPES[key](**settings).plan(tiny, make_student=make_student, rng=dd.generator(0))
    asked = {"average": 0.75, "clip_norm": 2.0, "skip_above": 5.0}
    plan = RECIPES[key](**settings | asked, anneal=True).plan(tiny, make_student=make_student, rng=dd.generator(0))
    assert {name: getattr(plan, name) for name in asked} == asked
    for step in range(own.steps + 1):
        factor = 1.0 if own.rate_at is None else own.rate_at(step)
        half = math.cos(math.pi * step / own.steps / 2) ** 2
        assert plan.rate_at(step) == pytest.approx(factor * half, abs=1e-12)
    # What an error tells to turn is there to be turned.
    for knob in own.divergence_hint.replace(",", " ").replace(" or ", " ").split():
        assert hasattr(RECIPES[key](**settings), knob)


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("average", 0.0, "average must lie strictly between 0 and 1, got 0.0"),
        ("average", 1.0, "average must lie strictly between 0 and 1, got 1.0"),
        ("clip_norm", 0.0, "clip_norm must be"),
        ("skip_above", -1.0, "skip_above must be"),
    ],
)
def test_common_options_that_no_data_could_make_right_are_refused(field, value, rule):
    with pytest.raises(ValueError, match=rule):
        dd.DM(ipc=1, **{field: value})
