"""How many steps fit the time that a user has, as a trial shows."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ddsdk as dd
from ddsdk.cli.chosen import count_of
from ddsdk.cli.console import err, out
from ddsdk.recipes.base import IterativeRecipe

if TYPE_CHECKING:
    import torch

    from ddsdk.students.fresh import MakeStudent

__all__ = ["as_begun", "fitted", "shortened"]


def as_begun(method: IterativeRecipe, folder: Path) -> IterativeRecipe:
    """Return a recipe with the length that the run in a folder has; as it is where there is none.

    Another trial would find another number of steps, and a run goes on with its own.
    """
    from ddsdk.job import found_config

    value = (found_config(folder) or {}).get(count_of(method))
    return _counting(method, value) if isinstance(value, int) else method


def shortened(method: IterativeRecipe, planned: int, fits: int) -> tuple[IterativeRecipe, int]:
    """Return a recipe with at most so many outer steps, one at least, and how many it then has.

    A recipe that counts students keeps whole ones.

    Args:
        method: The recipe.
        planned: Its outer steps.
        fits: Those that there is time for.
    """
    if fits >= planned:
        return method, planned
    count = count_of(method)
    if count == "steps":
        steps = max(1, fits)
        return _counting(method, steps), steps
    each = max(1, planned // getattr(method, count))
    students = max(1, fits // each)
    return _counting(method, students), students * each


def _counting(method: IterativeRecipe, value: int) -> IterativeRecipe:
    changes: dict[str, Any] = {count_of(method): value}
    return dataclasses.replace(method, **changes)


def fitted(
    method: IterativeRecipe,
    train: dd.RealData,
    *,
    make_student: MakeStudent,
    rng: torch.Generator,
    budget: float,
    began: float,
) -> tuple[IterativeRecipe, dd.Estimate]:
    """Return a recipe with as many steps as fit what is left of a budget after a trial, and what they will take.

    Args:
        method: The recipe; its own number of steps is the most.
        train: What it distils.
        make_student: Builds a network.
        rng: Root of every random number; it is not advanced.
        budget: Seconds of the whole run.
        began: When it began, on the clock of `time.perf_counter`.
    """
    building = 0.0

    def make() -> dd.Distillation[Any]:
        nonlocal building
        start = time.perf_counter()
        made = method.distillation(train, make_student=make_student, rng=rng)
        building = time.perf_counter() - start
        return made

    whole = dd.estimate(make)
    each = whole.seconds / whole.steps
    # What the trial built is built once more for the run.
    spent = time.perf_counter() - began + building
    fits = int((budget - spent) / each)
    fewer, steps = shortened(method, whole.steps, fits)
    if fits < steps:
        err(f"the budget of {budget:g} s is too short: {spent:.0f} s go by before the first step")
    out(f"{steps} of {whole.steps} steps for a budget of {budget:g} s")
    return fewer, dataclasses.replace(whole, steps=steps, seconds=each * steps)
