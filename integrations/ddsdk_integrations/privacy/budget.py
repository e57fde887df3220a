"""Budget and ledger: what may be spent, what was, and the noise that a number of releases needs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, final

from opacus.accountants import create_accountant
from opacus.accountants.utils import get_noise_multiplier

from ddsdk.errors import require, require_count, require_rate

__all__ = ["Budget", "BudgetSpentError", "Ledger", "Release", "epsilon_of", "noise_for"]

Accountant = Literal["rdp", "prv"]

_PRECISION = 1e-3


class BudgetSpentError(RuntimeError):
    """A release would cost more than the budget has left; nothing was looked at."""


@final
@dataclass(frozen=True, kw_only=True)
class Budget:
    """How much one record may show.

    Attributes:
        epsilon: Of (epsilon, delta)-differential privacy, under adding or removing one record.
        delta: Below one over the number of records, or it says nothing.
        accountant: ``"rdp"``: quick, and some per cent loose; ``"prv"``: tight and slow.
    """

    epsilon: float
    delta: float
    accountant: Accountant = "rdp"

    def __post_init__(self) -> None:
        require_rate("epsilon", self.epsilon)
        require(0 < self.delta < 1, "delta", "lie strictly between 0 and 1", self.delta)
        require(self.accountant in ("rdp", "prv"), "accountant", "be rdp or prv", self.accountant)


@final
@dataclass(frozen=True, kw_only=True)
class Release:
    """Noised sums of one kind that were taken.

    Attributes:
        what: In words.
        noise_multiplier: Standard deviation of the noise, over the clip norm.
        sample_rate: Probability with which a record is in a sample.
        count: How often.
    """

    what: str
    noise_multiplier: float
    sample_rate: float
    count: int


@final
class Ledger:
    """Counts every release before it is made, and stops where the budget would be exceeded.

    Args:
        budget: Of everything that is counted here: restarts and trials too.
    """

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self._counts: dict[tuple[str, float, float], int] = {}
        self._open: list[Reservation] = []

    @property
    def releases(self) -> tuple[Release, ...]:
        """What was taken so far, in the order of the first of each kind."""
        return tuple(
            Release(what=what, noise_multiplier=noise, sample_rate=rate, count=count)
            for (what, noise, rate), count in self._counts.items()
        )

    @property
    def epsilon(self) -> float:
        """What was spent, at the delta of the budget."""
        return epsilon_of(self._history(self._counts), self.budget.delta, self.budget.accountant)

    def reserve(self, what: str, *, noise_multiplier: float, sample_rate: float, count: int) -> Reservation:
        """Check that so many releases fit what is left, and return the right to make them.

        One composition for all of them: asking the accountant before every release would take longer than the release.

        Raises:
            BudgetSpentError: If they do not fit.
        """
        require_count("count", count)
        require_rate("noise_multiplier", noise_multiplier)
        require(0 < sample_rate <= 1, "sample_rate", "lie in 0 < value <= 1", sample_rate)
        key = (what, noise_multiplier, sample_rate)
        planned = self._planned()
        planned[key] = planned.get(key, 0) + count
        cost = epsilon_of(self._history(planned), self.budget.delta, self.budget.accountant)
        if cost > self.budget.epsilon:
            raise BudgetSpentError(
                f"{count} releases of {what} would bring epsilon to {cost:.4g}, and the budget is "
                f"{self.budget.epsilon:g} at delta {self.budget.delta:g}"
            )
        reservation = Reservation(self, key, count)
        self._open.append(reservation)
        return reservation

    def _planned(self) -> dict[tuple[str, float, float], int]:
        """Return what was taken and what may still be."""
        total = dict(self._counts)
        for reservation in self._open:
            total[reservation.key] = total.get(reservation.key, 0) + reservation.left
        return total

    def count(self, key: tuple[str, float, float]) -> None:
        """Enter one release; a `Reservation` calls it."""
        self._counts[key] = self._counts.get(key, 0) + 1

    @staticmethod
    def _history(counts: dict[tuple[str, float, float], int]) -> tuple[tuple[float, float, int], ...]:
        return tuple((noise, rate, count) for (_, noise, rate), count in counts.items())


@final
class Reservation:
    """The right to a number of releases of one kind."""

    def __init__(self, ledger: Ledger, key: tuple[str, float, float], count: int) -> None:
        self.key = key
        self.left = count
        self._ledger = ledger

    def spend(self) -> None:
        """Enter one release in the ledger, before anything is looked at.

        Raises:
            BudgetSpentError: If none is left.
        """
        if self.left == 0:
            raise BudgetSpentError(f"all releases of {self.key[0]} that were reserved are made")
        self.left -= 1
        self._ledger.count(self.key)


@lru_cache(maxsize=256)
def epsilon_of(history: tuple[tuple[float, float, int], ...], delta: float, accountant: Accountant) -> float:
    """Return the epsilon of a composition of Poisson-sampled Gaussian mechanisms.

    Args:
        history: Noise multiplier, sampling rate and number of releases, for each kind.
        delta: Of the guarantee.
        accountant: See `Budget`.
    """
    if not history:
        return 0.0
    counter = create_accountant(mechanism=accountant)
    counter.history = list(history)
    return float(counter.get_epsilon(delta=delta))


@lru_cache(maxsize=256)
def noise_for(budget: Budget, *, sample_rate: float, releases: int) -> float:
    """Return the smallest noise multiplier, to a thousandth, with which so many releases fit a budget.

    It is searched with Renyi divergences, and refined by the tight accountant where the budget names that.

    Args:
        budget: What may be spent.
        sample_rate: Probability with which a record is in a sample, which must be public.
        releases: How many.
    """
    require_count("releases", releases)
    require(0 < sample_rate <= 1, "sample_rate", "lie in 0 < value <= 1", sample_rate)
    high = float(
        get_noise_multiplier(
            target_epsilon=budget.epsilon,
            target_delta=budget.delta,
            sample_rate=sample_rate,
            steps=releases,
            accountant="rdp",
            epsilon_tolerance=min(0.01, budget.epsilon / 100),
        )
    )
    low = 0.8 * high if budget.accountant == "prv" else 0.98 * high

    def fits(noise: float) -> bool:
        return (
            epsilon_of(((noise, sample_rate, releases),), budget.delta, budget.accountant) <= budget.epsilon
        )

    while high - low > _PRECISION * high:
        middle = (low + high) / 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return math.ceil(high * 1e6) / 1e6
