"""One file for each paper, and the table of them."""

from __future__ import annotations

from ddsdk.recipes.base import IterativeRecipe, Recipe
from ddsdk.recipes.dc import DC
from ddsdk.recipes.dm import DM
from ddsdk.recipes.dsa import DSA

__all__ = ["DC", "DM", "DSA", "RECIPES", "IterativeRecipe", "Recipe"]

RECIPES: dict[str, type[IterativeRecipe]] = {"dc": DC, "dsa": DSA, "dm": DM}
"""Name on the command line (the paper's, in lower case) to recipe."""
