"""The list of recipes: one module for each paper, in the order of the tables."""

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
"""Modules of this room, each of which defines one recipe. A new recipe is one more line here."""


def _recipe_of(module: str) -> type[Recipe]:
    """Return the one recipe that a module defines: the class with a name of its own."""
    home = import_module(f"ddsdk.recipes.{module}")
    (found,) = (
        kind
        for kind in vars(home).values()
        if isinstance(kind, type) and kind.__module__ == home.__name__ and "name" in vars(kind)
    )
    return found


RECIPES: dict[str, type[Recipe]] = {kind.name: kind for kind in map(_recipe_of, MODULES)}
"""Name on the command line to recipe."""
