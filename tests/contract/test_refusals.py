"""What every recipe and baseline refuses, and by which name: counts, rates, sizes, seeds, words."""

from __future__ import annotations

import dataclasses
from typing import get_type_hints

import pytest
from every_method import METHODS, fields

import ddsdk as dd
from ddsdk.baselines import BASELINES
from ddsdk.recipes import RECIPES, IterativeRecipe

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
    if name not in fields(kind):
        return
    small, rule = COUNTS[name]
    with pytest.raises(ValueError, match=f"^{name} {rule}$"):
        kind(**{name: small})
    for value in (1.5, "3", True):
        with pytest.raises(ValueError, match=f"^{name} must be an integer, got {value!r}$"):
            kind(**{name: value})


@pytest.mark.parametrize("kind", METHODS.values(), ids=METHODS)
def test_every_whole_number_is_refused_where_it_is_none_or_negative(kind):
    for name, hint in get_type_hints(kind).items():
        if hint in (int, int | None):
            for value in (1.5, "3", True):
                with pytest.raises(ValueError, match=f"^{name} must be an integer, got {value!r}$"):
                    kind(**{name: value})
            with pytest.raises(ValueError, match=f"^{name} must .*, got -1$"):
                kind(**{name: -1})


@pytest.mark.parametrize("kind", RECIPES.values(), ids=RECIPES)
@pytest.mark.parametrize("value", [NAN, -1.0, 0.0, float("inf"), "1"])
def test_a_rate_that_is_none_is_refused_by_its_name(kind, value):
    for name in fields(kind):
        if name.endswith("_lr"):
            with pytest.raises(ValueError, match=f"^{name} must be positive and finite, got "):
                kind(**{name: value})
        if name.endswith("_momentum") and value != 0:
            with pytest.raises(ValueError, match=f"^{name} must lie in 0 <= value < 1, got "):
                kind(**{name: value})
    for name in (name for name in fields(kind) if name.endswith("_momentum")):
        with pytest.raises(ValueError, match=f"^{name} must lie in 0 <= value < 1, got 1$"):
            kind(**{name: 1})


@pytest.mark.parametrize("seed", [1.5, "0", True, None])
def test_a_seed_that_is_none_is_refused(seed, tiny, make_student):
    with pytest.raises(TypeError, match=r"seed must be an integer or a torch\.Generator, got "):
        dd.distill(dd.DM(ipc=1, steps=1), tiny, make_student=make_student, seed=seed)


def test_options_of_steps_are_refused_where_there_are_none(tiny, make_student):
    start = dd.distill(BASELINES["random"](ipc=1), tiny, make_student=make_student)
    held = dd.Validation(held=tiny)
    given = {"start": start, "validation": held, "transform": lambda p: p, "budget": 1.0, "stop": lambda: False}
    for option, value in given.items():
        with pytest.raises(ValueError, match=f"^{option} must be left out for krr, which has no steps"):
            dd.distill(dd.KRR(), tiny, make_student=make_student, **{option: value})


def test_impossible_sizes_are_refused(method, tiny, make_student):
    with pytest.raises(ValueError, match="ipc must be at least 1, got 0"):
        dataclasses.replace(method, ipc=0)
    many = dataclasses.replace(method, ipc=6)
    start = getattr(method, "start", None)
    if start == "noise":
        return
    if start is None and isinstance(method, IterativeRecipe):
        # A method that needs no real image for each of its own may go on; it then gives what it was asked for.
        try:
            found = dd.distill(many, tiny, make_student=make_student, seed=0)
        except ValueError as error:
            assert "got 6" in str(error)
        else:
            assert found.ipc >= 6
        return
    with pytest.raises(ValueError, match=r"5 images of class 2 \('cat'\), or .*, got 6"):
        dd.distill(many, tiny, make_student=make_student, seed=0)


def test_an_unknown_augmentation_is_refused_before_the_run(recipe, tiny, make_student):
    if "augmentation" not in fields(recipe):
        return
    with pytest.raises(ValueError, match="did you mean 'flip'"):
        wrong = dataclasses.replace(recipe, augmentation="flop")
        wrong.plan(tiny, make_student=make_student, rng=dd.generator(0))


def test_an_unknown_start_is_refused_before_the_run(recipe, tiny, make_student):
    if "start" not in fields(recipe):
        return
    with pytest.raises(ValueError, match=r"^start must be one of .*did you mean 'noise'"):
        wrong = dataclasses.replace(recipe, start="nose")
        wrong.plan(tiny, make_student=make_student, rng=dd.generator(0))
