"""Number types for fields of dataclasses, each with a range that `check_numbers` enforces.

A type checker treats them as plain numbers. The range is found by the name of the type in the annotation, as in
``steps: PositiveInt = 1000``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from typing import Any, TypeAlias

from ddsdk.foundation.errors import require, require_count, require_momentum, require_positive

PositiveInt: TypeAlias = int
NonNegativeInt: TypeAlias = int
PositiveFloat: TypeAlias = float
NonNegativeFloat: TypeAlias = float
Momentum: TypeAlias = float
Fraction: TypeAlias = float


def _weight(name: str, value: object) -> None:
    require(isinstance(value, int | float) and 0 <= value < math.inf, name, "be finite and not negative", value)


def _fraction(name: str, value: object) -> None:
    require(isinstance(value, int | float) and 0 <= value <= 1, name, "lie in 0..1", value)


_RULES: dict[str, Callable[[str, Any], None]] = {
    "PositiveInt": require_count,
    "NonNegativeInt": partial(require_count, least=0),
    "PositiveFloat": require_positive,
    "NonNegativeFloat": _weight,
    "Momentum": require_momentum,
    "Fraction": _fraction,
}


def check_numbers(instance: Any) -> None:  # noqa: ANN401 - any dataclass
    """Check that the number fields of a dataclass lie in the ranges of their types, else raise ValueError.

    None is accepted where the annotation ends in ``| None``.

    Args:
        instance: Dataclass whose module has ``from __future__ import annotations``; fields of others are not checked.
    """
    for field in fields(instance):
        value, type_name = getattr(instance, field.name), str(field.type).removesuffix(" | None")
        if type_name in _RULES and not (value is None and type_name != field.type):
            _RULES[type_name](field.name, value)


class CheckedDataclass:
    """Base of dataclasses whose number fields are checked when an instance is made.

    Examples:
        >>> import ddsdk
        >>> ddsdk.DM(ipc=0)
        Traceback (most recent call last):
        ValueError: ipc must be at least 1, got 0
    """

    def __post_init__(self) -> None:
        check_numbers(self)
