"""Numbers of dataclasses obey the rules of their types."""

from __future__ import annotations

from dataclasses import dataclass, make_dataclass

import pytest

from ddsdk.foundation import (
    CheckedDataclass,
    Fraction,
    Momentum,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    check_numbers,
)

NAN, INF = float("nan"), float("inf")
RULES = {
    "PositiveInt": ([1, 7], {"be an integer": [1.0, True, "1"], "be at least 1": [0, -1]}),
    "NonNegativeInt": ([0, 7], {"be an integer": [0.5, False, "0"], "be at least 0": [-1]}),
    "PositiveFloat": ([0.1, 3], {"be positive and finite": [0.0, -1.0, INF, NAN, "1"]}),
    "NonNegativeFloat": ([0, 0.1, 3], {"be finite and not negative": [-0.1, INF, NAN, "1"]}),
    "Momentum": ([0, 0.9], {"lie in 0 <= value < 1": [-0.1, 1, NAN, "0"]}),
    "Fraction": ([0, 0.5, 1], {r"lie in 0\.\.1": [-0.1, 1.1, NAN, "1"]}),
}


@pytest.mark.parametrize("kind", RULES)
@pytest.mark.parametrize("optional", ["", " | None"])
def test_a_type_is_a_rule(kind, optional):
    holder = make_dataclass("holder", [("number", kind + optional)])
    good, bad = RULES[kind]
    for value in good:
        check_numbers(holder(value))
    for rule, values in bad.items():
        for value in values:
            with pytest.raises(ValueError, match=f"^number must {rule}, got {value!r}$"):
                check_numbers(holder(value))
    if optional:
        check_numbers(holder(None))
    else:
        with pytest.raises(ValueError, match=r"^number must .*, got None$"):
            check_numbers(holder(None))


@dataclass(frozen=True, kw_only=True)
class Base(CheckedDataclass):
    count: PositiveInt = 1
    rate: PositiveFloat | None = None
    plain: float = -1.0
    decay: Momentum = 0.0
    share: Fraction = 1.0
    weight: NonNegativeFloat = 0.0


@dataclass(frozen=True, kw_only=True)
class Child(Base):
    count: NonNegativeInt = 0


def test_rules_are_inherited_and_overridden():
    assert (Child().count, Child().plain) == (0, -1.0)
    with pytest.raises(ValueError, match=r"^count must be at least 1, got 0$"):
        Base(count=0)
    with pytest.raises(ValueError, match=r"^rate must be positive and finite, got 0$"):
        Child(rate=0)


def test_fields_without_postponed_annotations_have_no_rule():
    check_numbers(make_dataclass("holder", [("number", int), ("other", int | None)])(-1, "x"))
