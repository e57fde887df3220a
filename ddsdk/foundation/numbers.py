"""Types of the numbers in dataclasses, each with a rule that `check_numbers` enforces.

To a type checker they are plain numbers; the rule goes by the name in the annotation, ``steps: PositiveInt = 1000``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from typing import Any, TypeAlias

from ddsdk.foundation.errors import require, require_count, require_momentum, require_rate

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
    "PositiveFloat": require_rate,
    "NonNegativeFloat": _weight,
    "Momentum": require_momentum,
    "Fraction": _fraction,
}


def check_numbers(instance: Any) -> None:  # noqa: ANN401 - any dataclass
    """Raise ValueError where a field breaks the rule of its type; ``| None`` in the annotation lets None pass.

    Args:
        instance: Dataclass. Fields have rules where its module has ``from __future__ import annotations``.
    """
    for field in fields(instance):
        value, kind = getattr(instance, field.name), str(field.type).removesuffix(" | None")
        if kind in _RULES and not (value is None and kind != field.type):
            _RULES[kind](field.name, value)


class Checked:
    """Base of dataclasses whose numbers obey the rules of their types."""

    def __post_init__(self) -> None:
        check_numbers(self)
