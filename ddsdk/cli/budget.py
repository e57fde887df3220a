"""A budget on the command line: what it buys, said to the user."""

from __future__ import annotations

from pathlib import Path

from ddsdk.bench.length import Fit, counting
from ddsdk.bench.methods import count_of
from ddsdk.cli.console import err, out
from ddsdk.recipes.base import IterativeRecipe

__all__ = ["as_begun", "tell"]


def as_begun(method: IterativeRecipe, folder: Path) -> IterativeRecipe:
    """Return a recipe with the length that the run in a folder has; as it is where there is none.

    Another trial would find another number of steps, and a run goes on with its own.
    """
    from ddsdk.job import found_config

    value = (found_config(folder) or {}).get(count_of(method))
    return counting(method, value) if isinstance(value, int) else method


def tell(fit: Fit, budget: float) -> None:
    """Say how many steps a budget pays for."""
    if fit.fits < fit.estimate.steps:
        err(f"the budget of {budget:g} s is too short: {fit.spent:.0f} s go by before the first step")
    out(f"{fit.estimate.steps} of {fit.planned} steps for a budget of {budget:g} s")
