"""Recipes and baselines by name, and their configuration from command-line text and from JSON values."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from types import NoneType
from typing import Any, get_args, get_type_hints

import msgspec

from ddsdk.baselines import BASELINES
from ddsdk.foundation import require
from ddsdk.planning.presets import PRESETS, preset
from ddsdk.recipes import RECIPES, IterativeRecipe, Recipe

_LEAST_IMAGES, _LEAST_NETWORKS = 100, 2
METHODS: dict[str, type[Recipe]] = {**RECIPES, **BASELINES}


def configured_methods(
    chosen: Sequence[str], ipc: int, changes: Sequence[str], *, paper: bool = False
) -> dict[str, Recipe]:
    """Return configured methods by name, with their presets for a small machine and with changed parameters.

    ValueError is raised for an unknown method, and for a change that does not fit the parameters.

    Args:
        chosen: Names of the methods; an empty sequence takes all methods with presets.
        ipc: Number of images per class.
        changes: Changed parameters, such as ``"dm.image_lr=0.5"``, which override the presets.
        paper: True for the parameters of the papers instead of the presets.

    Examples:
        >>> from ddsdk.planning import configured_methods
        >>> configured_methods(["dm"], 10, ["dm.steps=5"])["dm"].steps
        5
    """
    names = list(dict.fromkeys(chosen or PRESETS))
    for name in names:
        require(name in METHODS, "recipes", f"be among {', '.join(METHODS)}", name)
    changed: dict[str, dict[str, Any]] = {name: {} for name in names}
    for change in changes:
        target, equals, text = change.partition("=")
        name, dot, field = target.strip().partition(".")
        require(bool(equals and dot and field), "set", "be like dm.image_lr=0.5", change)
        require(name in changed, "set", f"name one of the methods, {', '.join(names)}", change)
        field = field.replace("-", "_")
        changed[name][field] = _value(METHODS[name], field, text.strip(), change)
    presets = {name: {} if paper else preset(name, ipc) for name in names}
    return {name: METHODS[name](**{"ipc": ipc, **presets[name], **changed[name]}) for name in names}


def with_shorter_training(method: IterativeRecipe, class_size: int, share: float) -> IterativeRecipe:
    """Return a method whose experts, pool or teacher take about a share of their training time.

    First the real images of each class are reduced, down to 100, then the networks, down to two, then the epochs, down
    to two, or to the fewest that the method allows.

    Args:
        method: Method to change; one without such networks is returned as it is.
        class_size: Number of real images in a class.
        share: Factor of the training time, in 0 < share < 1.

    Examples:
        >>> import ddsdk
        >>> from ddsdk.planning import with_shorter_training
        >>> short = with_shorter_training(ddsdk.MTT(ipc=1, experts=10, expert_epochs=10), 1000, 0.05)
        >>> short.expert_images, short.experts, short.expert_epochs
        (100, 5, 10)
    """
    for name in method.training_fields:
        current = class_size if getattr(method, name) is None else min(getattr(method, name), class_size)
        current = current if name.endswith("_images") else getattr(method, name)
        least = min(current, _LEAST_IMAGES if name.endswith("_images") else _LEAST_NETWORKS)
        for value in range(max(least, int(current * share)), current + 1):
            try:
                changes: dict[str, Any] = {name: value}
                method = dataclasses.replace(method, **changes)
            except ValueError:  # such as fewer epochs than the span of a segment
                continue
            share *= current / value
            break
        if share >= 1:
            break
    return method


def method_from_parameters(name: str, parameters: Mapping[str, Any]) -> Recipe:
    """Return a method from its parameters as JSON values, such as those in the provenance record of a set.

    Args:
        name: Name of the method, a key of `METHODS`.
        parameters: Values of the parameters by name, as from `dataclasses.asdict`.

    Raises:
        ValueError: If the name or a parameter is unknown, or a value does not fit its parameter.

    Examples:
        >>> from ddsdk.planning import method_from_parameters
        >>> method_from_parameters("dm", {"ipc": 10, "steps": 5}).steps
        5
    """
    require(name in METHODS, "recipe", f"be among {', '.join(METHODS)}", name)
    field_types = get_type_hints(METHODS[name])
    unknown = sorted(set(parameters) - {f.name for f in dataclasses.fields(METHODS[name])})
    require(not unknown, "parameters", f"be those of {name}", unknown)
    try:
        values = {field: msgspec.convert(value, field_types[field]) for field, value in parameters.items()}
    except msgspec.ValidationError as error:
        raise ValueError(f"parameters must fit {name}: {error}") from None
    return METHODS[name](**values)


def _value(method: type[Any], field: str, text: str, change: str) -> Any:  # noqa: ANN401
    parameters = [f.name for f in dataclasses.fields(method)]
    if field not in parameters:
        similar = get_close_matches(field, parameters, n=1)
        hint = f"; did you mean {similar[0]!r}?" if similar else ""
        raise ValueError(f"set must name a parameter of the method, {', '.join(parameters)}, got {change!r}{hint}")
    field_type = get_type_hints(method)[field]
    if text.lower() == "none" and NoneType in get_args(field_type):
        return None
    try:
        return msgspec.convert(text, field_type, strict=False)
    except msgspec.ValidationError as error:
        raise ValueError(f"set must fit the parameter, got {change!r}: {error}") from None
