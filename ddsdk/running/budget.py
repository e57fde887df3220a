"""Runs that fit into a time: how many steps there are time for."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple, TypeVar

from ddsdk.running.method import IterativeMethod
from ddsdk.running.preview import Estimate

M = TypeVar("M", bound=IterativeMethod[Any])


class BudgetFit(NamedTuple):
    """The length of a run under a budget.

    Attributes:
        estimate: Estimate of the steps that will be taken.
        planned: Outer steps that the method had before.
        fits: Outer steps that there is time for; fewer than 1 where the budget is too short.
        spent: Seconds before the first step.
    """

    estimate: Estimate
    planned: int
    fits: int
    spent: float


def with_length(method: M, value: int) -> M:
    """Return a method of another length, see `IterativeMethod.length`."""
    changes: dict[str, Any] = {method.length: value}
    return dataclasses.replace(method, **changes)  # type: ignore[type-var]  # methods are dataclasses


def shortened(method: M, planned: int, fits: int) -> tuple[M, int]:
    """Return a method with at most `fits` outer steps, one at least, and the number that it then has.

    A method whose length counts students keeps whole ones.

    Args:
        method: Method to shorten.
        planned: Outer steps of the method.
        fits: Outer steps that there is time for.
    """
    if fits >= planned:
        return method, planned
    each = 1 if method.length == "steps" else max(1, planned // getattr(method, method.length))
    number = max(1, fits // each)
    return with_length(method, number), number * each
