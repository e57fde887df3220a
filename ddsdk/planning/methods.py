"""The methods by name, recipes and baselines alike, and their settings as words and JSON values give them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from types import NoneType
from typing import Any, get_args, get_type_hints

import msgspec

from ddsdk.baselines import BASELINES
from ddsdk.foundation import require
from ddsdk.planning.presets import SMALL, small
from ddsdk.recipes import RECIPES, Recipe

METHODS: dict[str, type[Recipe]] = {**RECIPES, **BASELINES}


def chosen_methods(
    chosen: Sequence[str], ipc: int, changes: Sequence[str], *, paper: bool = False
) -> dict[str, Recipe]:
    """Return methods by name, those with presets if none is chosen, with their settings.

    The presets, unless `paper` leaves them out, come before the changes, such as ``"dm.image_lr=0.5"``.
    """
    wanted = list(dict.fromkeys(chosen or SMALL))
    for name in wanted:
        require(name in METHODS, "recipes", f"be among {', '.join(METHODS)}", name)
    given: dict[str, dict[str, Any]] = {name: {} for name in wanted}
    for change in changes:
        place, equals, text = change.partition("=")
        name, dot, field = place.strip().partition(".")
        require(bool(equals and dot and field), "set", "be like dm.image_lr=0.5", change)
        require(name in given, "set", f"name one of the methods, {', '.join(wanted)}", change)
        field = field.replace("-", "_")
        given[name][field] = _value(METHODS[name], field, text.strip(), change)
    presets = {name: {} if paper else small(name, ipc) for name in wanted}
    return {name: METHODS[name](**{"ipc": ipc, **presets[name], **given[name]}) for name in wanted}


def made_of(name: str, parameters: Mapping[str, Any]) -> Recipe:
    """Return a method with the parameters that `dataclasses.asdict` gave, after a way through JSON."""
    require(name in METHODS, "recipe", f"be among {', '.join(METHODS)}", name)
    kinds = get_type_hints(METHODS[name])
    unknown = sorted(set(parameters) - {f.name for f in dataclasses.fields(METHODS[name])})
    require(not unknown, "parameters", f"be those of {name}", unknown)
    try:
        values = {field: msgspec.convert(value, kinds[field]) for field, value in parameters.items()}
    except msgspec.ValidationError as error:
        raise ValueError(f"parameters must fit {name}: {error}") from None
    return METHODS[name](**values)


def _value(method: type[Any], field: str, text: str, change: str) -> Any:  # noqa: ANN401
    known = [f.name for f in dataclasses.fields(method)]
    if field not in known:
        near = get_close_matches(field, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"set must name a parameter of it, {', '.join(known)}, got {change!r}{hint}")
    kind = get_type_hints(method)[field]
    if text.lower() == "none" and NoneType in get_args(kind):
        return None
    try:
        return msgspec.convert(text, kind, strict=False)
    except msgspec.ValidationError as error:
        raise ValueError(f"set must fit the parameter, got {change!r}: {error}") from None
