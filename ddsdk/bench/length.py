"""How many steps fit the time that there is, as a trial shows."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import ddsdk as dd
from ddsdk.bench.methods import count_of
from ddsdk.recipes.base import IterativeRecipe

if TYPE_CHECKING:
    import torch

    from ddsdk.students.fresh import MakeStudent

__all__ = ["Fit", "counting", "fitted", "shortened"]


class Fit(NamedTuple):
    """A recipe that was shortened to a budget.

    Attributes:
        method: The recipe.
        estimate: What its steps will take.
        planned: Outer steps that it had before.
        fits: Outer steps that there is time for; fewer than 1 where the budget is too short.
        spent: Seconds that go by before the first step.
    """

    method: IterativeRecipe
    estimate: dd.Estimate
    planned: int
    fits: int
    spent: float


def counting(method: IterativeRecipe, value: int) -> IterativeRecipe:
    """Return a recipe of another length, see `count_of`."""
    changes: dict[str, Any] = {count_of(method): value}
    return dataclasses.replace(method, **changes)


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
    each = 1 if count == "steps" else max(1, planned // getattr(method, count))
    number = max(1, fits // each)
    return counting(method, number), number * each


def fitted(
    method: IterativeRecipe,
    train: dd.RealData,
    *,
    make_student: MakeStudent,
    rng: torch.Generator,
    budget: float,
    began: float,
) -> Fit:
    """Return a recipe with as many steps as fit what is left of a budget after a trial.

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
    left = dataclasses.replace(whole, steps=steps, seconds=each * steps)
    return Fit(fewer, left, whole.steps, fits, spent)
