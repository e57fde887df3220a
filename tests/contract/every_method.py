"""Every recipe and baseline with its smallest settings."""

from __future__ import annotations

import dataclasses

from tiny_recipes import BASELINE_SETTINGS, RECIPE_SETTINGS

from ddsdk.baselines import BASELINES
from ddsdk.recipes import RECIPES, IterativeRecipe

IPC = 2
TINY = {**RECIPE_SETTINGS, **BASELINE_SETTINGS}
METHODS = {**RECIPES, **BASELINES}
ITERATIVE = sorted(key for key, kind in RECIPES.items() if issubclass(kind, IterativeRecipe))


def fields(method):
    """Return the fields of a method by name."""
    return {f.name: f for f in dataclasses.fields(method)}
