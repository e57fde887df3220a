"""A budget on the command line: what it buys, said to the user."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ddsdk import running
from ddsdk.cli.console import err, out
from ddsdk.recipes import IterativeRecipe

if TYPE_CHECKING:
    from ddsdk.running import BudgetFit


def as_begun(method: IterativeRecipe, folder: Path) -> IterativeRecipe:
    """Return a recipe with the length that the run in a folder has; as it is where there is none.

    Another trial would find another number of steps, and a run goes on with its own.
    """
    value = (running.found_config(folder) or {}).get(method.length)
    return running.with_length(method, value) if isinstance(value, int) else method


def tell(fit: BudgetFit, budget: float) -> None:
    """Say how many steps a budget pays for."""
    if fit.fits < fit.estimate.steps:
        err(f"the budget of {budget:g} s is too short: {fit.spent:.0f} s go by before the first step")
    out(f"{fit.estimate.steps} of {fit.planned} steps for a budget of {budget:g} s")
