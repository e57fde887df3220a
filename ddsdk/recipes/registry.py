"""The list of recipes: one module per paper, in the order of the result tables."""

from __future__ import annotations

from importlib import import_module

from ddsdk.recipes.base import Recipe

MODULES = (
    "dc",
    "dsa",
    "dcc",
    "jiang",
    "idc",
    "dream",
    "acc_dd",
    "dm",
    "cafe",
    "idm",
    "datadam",
    "m3d",
    "ncfm",
    "sre2l",
    "rded",
    "mtt",
    "ftd",
    "tesla",
    "datm",
    "haba",
    "kfs",
    "fred",
    "fred_dm",
    "it_gan",
    "glad",
    "ld",
    "gtn",
    "kip",
    "frepo",
    "rfad",
    "rcig",
    "krr",
    "dd",
    "sldd",
    "rtp",
    "rat_bptt",
)
"""Modules of this package that define one recipe each. A new recipe is registered by adding its module here."""


def _recipe_of(module: str) -> type[Recipe]:
    """Return the one recipe class that a module defines, recognised by its own class variable `name`."""
    home = import_module(f"ddsdk.recipes.{module}")
    (recipe,) = (
        kind
        for kind in vars(home).values()
        if isinstance(kind, type) and kind.__module__ == home.__name__ and "name" in vars(kind)
    )
    return recipe


RECIPES: dict[str, type[Recipe]] = {kind.name: kind for kind in map(_recipe_of, MODULES)}
"""Recipe classes by their name on the command line."""
