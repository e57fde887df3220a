"""Networks of one's own: classes, functions and modules as factories of students."""

from __future__ import annotations

import copy
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import nn

from ddsdk.foundation import note, require
from ddsdk.networks.initialise import initialise
from ddsdk.networks.shapes import ImageShape

_GENERATOR = ("rng", "generator")
_FACTS = ("num_classes", "image_shape", "in_chans", "in_channels", "image_size", "img_size")
"""Arguments of a builder that describe the data, by their usual names."""


@final
@dataclass(frozen=True)
class OwnNetwork:
    """A builder of networks from a class, a function or a module; it can be pickled if its source can.

    Attributes:
        source: Class, function or module.
        generator: Name of the argument that gets the generator, "" for a positional one, None for none.
        arguments: Other arguments of the class or function.
    """

    source: Callable[..., nn.Module] | nn.Module
    generator: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, rng: torch.Generator) -> nn.Module:
        """Return a new network."""
        if isinstance(self.source, nn.Module):
            return initialise(copy.deepcopy(self.source), rng)
        if self.generator is None:
            return self.source(**self.arguments)
        if not self.generator:
            return self.source(rng, **self.arguments)
        return self.source(**{self.generator: rng}, **self.arguments)


def own_network(
    source: Callable[..., nn.Module] | nn.Module, image_shape: ImageShape, num_classes: int, options: Mapping[str, Any]
) -> OwnNetwork:
    """Return the builder of a network of one's own.

    Arguments named ``rng`` or ``generator``, and the one required argument of a function whatever its name, get the
    generator. Arguments named ``num_classes``, ``image_shape``, ``in_chans``, ``in_channels``, ``image_size`` and
    ``img_size`` get the facts of the data.

    Args:
        source: Class of the network, function that returns one, or a module, whose weights are drawn anew.
        image_shape: Shape of the images, (C, H, W).
        num_classes: Number of classes K.
        options: Further arguments of the class or function.

    Raises:
        TypeError: If a required argument has no value, or the source is neither callable nor a module.
    """
    if isinstance(source, nn.Module):
        require(not options, "options", f"be left out for a module, {type(source).__name__}", dict(options))
        note(f"the weights of {type(source).__name__} are drawn anew from the seed, as a student needs")
        return OwnNetwork(source)
    if not callable(source):
        raise TypeError(f"network must be a name, a class, a function or a torch module, got {type(source).__name__}")
    parameters = inspect.signature(source).parameters
    free = [p.name for p in parameters.values() if _is_required(p) and p.name not in (*_FACTS, *options)]
    generator = next((name for name in parameters if name in _GENERATOR and name not in options), None)
    if generator is None and len(free) == 1 and not inspect.isclass(source):
        generator, positional = free[0], True
    else:
        positional = generator is not None and parameters[generator].kind is inspect.Parameter.POSITIONAL_ONLY
    missing = [name for name in free if name != generator]
    if missing:
        raise TypeError(
            f"{network_name(source)} must get values for {', '.join(missing)}: pass them as options of "
            "network_factory, or pass a function of a torch.Generator that returns the network"
        )
    channels, *sides = image_shape
    size = sides[0] if sides[0] == sides[1] else tuple(sides)
    facts = dict(zip(_FACTS, (num_classes, image_shape, channels, channels, size, size), strict=True))
    known = {name: value for name, value in facts.items() if name in parameters}
    return OwnNetwork(source, "" if positional else generator, {**known, **options})


def takes_generator(source: Callable[..., nn.Module], image_shape: ImageShape, num_classes: int) -> bool:
    """Return whether a function is called with a generator, see `own_network`."""
    return own_network(source, image_shape, num_classes, {}).generator is not None


def _is_required(parameter: inspect.Parameter) -> bool:
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return parameter.default is inspect.Parameter.empty and parameter.kind not in variable


def network_name(source: object) -> str:
    """Return the name of a class, function or module for reports, such as ``my_networks.Small``."""
    if isinstance(source, nn.Module):
        return f"{network_name(type(source))} (drawn anew)"
    module, name = (getattr(source, attribute, "") for attribute in ("__module__", "__qualname__"))
    return f"{module}.{name}" if module and name else name or type(source).__name__


def imported_network(text: str, argument: str = "network") -> Any:  # noqa: ANN401
    """Return the class, function or module that a user names as "package.module:name".

    The working folder is searched first. Text of a file must never come here, because the module is run.

    Args:
        text: Name of a module and of an object in it, separated by a colon.
        argument: Name of the argument in error messages.

    Raises:
        ValueError: If there is no such module or object.
    """
    module, _, path = text.partition(":")
    valid = bool(path) and all(part.isidentifier() for part in [*module.split("."), *path.split(".")])
    catalogue = "a name of the catalogue, " if argument == "network" else ""
    require(valid, argument, f"be {catalogue}torchvision:NAME, timm:NAME or package.module:NAME", text)
    sys.path.insert(0, os.getcwd())  # noqa: PTH109 - sys.path holds strings
    try:
        found: Any = importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{argument} must name an object of an importable module, got {text!r}: {error}") from None
    finally:
        sys.path.pop(0)
    return found
