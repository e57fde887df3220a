"""Options of `ddsdk distill`, which depend on the method that the command line names."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import make_dataclass
from typing import Annotated, Any

import tyro

from ddsdk.cli.auto import AutoDistillOptions
from ddsdk.cli.distill import DistillOptions
from ddsdk.cli.method_choice import chosen_method
from ddsdk.recipes import IterativeRecipe

_NARROW = 32
"""Width of the validation networks under a time budget."""


def distill_verb(args: Sequence[str]) -> type[Any]:
    """Return the dataclass of the options of `ddsdk distill`, the parameters of the method included.

    Args:
        args: Arguments of the command line. They name the method, or the best measured method is chosen.
    """
    # Other commands need no choice of a method: they do not read the file of measurements.
    words = args if args[:1] == ["distill"] else ["--recipe", "dm"]
    chosen = chosen_method(words)
    parameters: Any = Annotated[type(chosen.method), tyro.conf.arg(name="")]  # options without a prefix
    defaults: dict[str, Any] = {"recipe": chosen.recipe, "network": chosen.network, **chosen.network_options}
    if chosen.budget is not None and (chosen.candidates or isinstance(chosen.method, IterativeRecipe)):
        defaults |= {"validation_width": _NARROW}
    kinds = {f.name: f.type for f in dataclasses.fields(DistillOptions)}
    fields: list[Any] = [
        ("method", parameters, dataclasses.field(default_factory=lambda: chosen.method)),
        *((name, kinds[name], dataclasses.field(default=value)) for name, value in defaults.items()),
    ]
    base = AutoDistillOptions if chosen.candidates else DistillOptions
    command = make_dataclass("Distill", fields, bases=(base,), frozen=True, kw_only=True, namespace={"chosen": chosen})
    command.__doc__ = DistillOptions.__doc__
    return command
