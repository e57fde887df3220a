"""Budget, ledger of the releases, and the noise with which further ones fit what is left."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, final

import msgspec
from opacus.accountants import create_accountant
from opacus.accountants.analysis import rdp

import ddsdk as dd
from ddsdk.artefact import NoisedRelease, require_line
from ddsdk.foundation import (
    Checked,
    PositiveFloat,
    lock,
    readable_json,
    require,
    require_count,
    strict_json,
    write_atomic,
)

Accountant = Literal["rdp", "prv"]
History = tuple[tuple[float, float, int], ...]
"""Noise multiplier, sampling rate and number of releases of each kind."""

_PRECISION = 1e-3
_LEAST_NOISE, _MOST_NOISE = 1e-3, 1e6
# The rest would be drowned in noise.
_SPENT = 0.98
# The grid of the tight accountant grows with epsilon, which says nothing there anyway.
_TIGHT_BELOW = 100.0
_IN_MEMORY = "the ledger was kept in memory: what other processes release of these records is not in it"
# Low orders serve large epsilons and high orders small ones; those of Opacus end at 63.
_ORDERS = [1 + i / 20 for i in range(1, 200)] + [float(i) for i in range(11, 128)] + [2.0**i for i in range(7, 11)]


class BudgetSpentError(RuntimeError):
    """A release would cost more than the budget has left; nothing was looked at."""


@final
@dataclass(frozen=True, kw_only=True)
class Budget(Checked):
    """Limit of (epsilon, delta)-differential privacy, under adding or removing one record.

    Attributes:
        epsilon: Largest epsilon of all releases together.
        delta: Delta; below one over the number of records, or it says nothing.
        accountant: ``"rdp"``: quick, and some per cent loose; ``"prv"``: tight and slow.
    """

    epsilon: PositiveFloat
    delta: float
    accountant: Accountant = "rdp"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.delta < 1, "delta", "lie strictly between 0 and 1", self.delta)
        require(self.accountant in ("rdp", "prv"), "accountant", "be rdp or prv", self.accountant)


@final
class Ledger:
    """Counts releases before they are made, and stops where the budget would be exceeded.

    Args:
        budget: Budget of everything that is counted here, restarts and trials too.
        path: JSON file that keeps the count. What another run wrote there counts as spent, also where that run crashed
            before it had made its releases. None keeps the count in memory: then it ends with the process, and what a
            second process releases of the same records is not counted.
    """

    def __init__(self, budget: Budget, path: str | os.PathLike[str] | None = None) -> None:
        self.budget = budget
        # The file itself, and not a link to it or a name in the present folder: all owners must lock one place.
        self._path = None if path is None else Path(path).resolve()
        self._kept = _Kept(budget=asdict(budget))
        self._read()

    @property
    def releases(self) -> tuple[NoisedRelease, ...]:
        """Reserved releases, in the order of the first of each kind."""
        return self._read().releases

    @property
    def assumptions(self) -> tuple[str, ...]:
        """Assumptions of the releases of all that share the ledger."""
        alone = () if self._path else (_IN_MEMORY,)
        return (*self._read().assumptions, *alone)

    @property
    def epsilon(self) -> float:
        """Spent epsilon, at the delta of the budget."""
        return self._cost(self.releases)

    @property
    def accountant(self) -> str:
        """The accountant with its version, for certificates."""
        return f"{self.budget.accountant} (opacus {version('opacus')})"

    def assume(self, what: str) -> None:
        """Add an assumption of the releases, a short line of text."""
        require_line("assumption", what)
        with self._held():
            if what not in self._kept.assumptions:
                self._write(assumptions=(*self._kept.assumptions, what))

    def reserve(self, *releases: NoisedRelease) -> None:
        """Enter releases that are about to be made, all or none: they count from here on, made or not.

        One composition for all of them: asking the accountant before every release would take longer than the release.

        Raises:
            BudgetSpentError: If they do not fit what is left.
            FolderBusyError: If another process is writing the file.
        """
        with self._held():
            planned = self._kept.releases
            for release in releases:
                planned = _joined(planned, release)
            cost = self._cost(planned)
            if cost > self.budget.epsilon:
                asked = " and ".join(f"{one.count} releases of {one.what}" for one in releases)
                raise BudgetSpentError(
                    f"{asked} would bring epsilon to {cost:.4g}, and the budget is "
                    f"{self.budget.epsilon:g} at delta {self.budget.delta:g}"
                )
            self._write(releases=planned)

    def noise_for(
        self, *, sample_rate: float, releases: int, share: float = 1.0, after: tuple[NoisedRelease, ...] = ()
    ) -> float:
        """Return the smallest noise multiplier, to a thousandth, with which so many releases fit what is left.

        Args:
            sample_rate: Probability with which a record is in a sample, which must be public.
            releases: Number of releases.
            share: Share of epsilon that they may cost, with everything before them.
            after: Releases that will be entered before them.

        Raises:
            BudgetSpentError: If nothing is left, or so little that no noise would do.
        """
        require_count("releases", releases)
        require(0 < sample_rate <= 1, "sample_rate", "lie in 0 < value <= 1", sample_rate)
        require(0 < share <= 1, "share", "lie in 0 < value <= 1", share)
        target = self.budget.epsilon * share
        delta, tight = self.budget.delta, self.budget.accountant
        spent = _history((*self.releases, *after))
        before = epsilon_of(spent, delta, tight)
        if before >= _SPENT * target:
            raise BudgetSpentError(f"epsilon {before:.4g} is spent, and {target:.4g} may be: nothing is left")

        def fits(noise: float, accountant: Accountant) -> bool:
            return epsilon_of((*spent, (noise, sample_rate, releases)), delta, accountant) <= target

        # What the quick accountant lets pass, the tight one does too.
        quick: Accountant = "rdp" if epsilon_of(spent, delta, "rdp") < _SPENT * target else tight
        high = 1.0
        while high > _LEAST_NOISE and fits(high / 2, quick):
            high /= 2
        while not fits(high, quick):
            high *= 2
            if high > _MOST_NOISE:
                raise BudgetSpentError(
                    f"no noise makes {releases} releases fit what {before:.4g} of {target:.4g} leaves"
                )
        high = _least(lambda noise: fits(noise, quick), high / 2, high)
        if tight != quick:
            high = _least(lambda noise: fits(noise, tight), 0.8 * high, high)
        return math.ceil(high * 1e6) / 1e6

    def _cost(self, releases: tuple[NoisedRelease, ...]) -> float:
        return epsilon_of(_history(releases), self.budget.delta, self.budget.accountant)

    @contextmanager
    def _held(self) -> Iterator[None]:
        """Lock the file, and read it."""
        if self._path is None:
            yield
            return
        with lock(self._path.parent):
            self._read()
            yield

    def _read(self) -> _Kept:
        if self._path is None or not self._path.exists():
            return self._kept
        try:
            found = msgspec.convert(strict_json(self._path.read_bytes()), _Kept)
        except (ValueError, msgspec.ValidationError) as error:
            raise ValueError(f"path must hold a ledger, got {self._path.name!r}: {error}") from None
        same = found.budget == asdict(self.budget)
        require(same, "budget", f"be that of the ledger, {found.budget}", self.budget)
        self._kept = found
        return found

    def _write(self, **changes: Any) -> None:  # noqa: ANN401
        kept = msgspec.structs.replace(self._kept, **changes)
        if self._path is not None:
            write_atomic(self._path, readable_json(msgspec.to_builtins(kept)))
        self._kept = kept


class _Kept(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Content of the file."""

    budget: dict[str, float | str]
    releases: tuple[NoisedRelease, ...] = ()
    assumptions: tuple[str, ...] = ()


def _joined(releases: tuple[NoisedRelease, ...], new: NoisedRelease) -> tuple[NoisedRelease, ...]:
    """Return the releases with one more kind, or more of a kind that is there."""
    for i, old in enumerate(releases):
        if msgspec.structs.replace(old, count=new.count) == new:
            return (*releases[:i], msgspec.structs.replace(old, count=old.count + new.count), *releases[i + 1 :])
    return (*releases, new)


def _history(releases: tuple[NoisedRelease, ...]) -> History:
    return tuple((one.noise_multiplier, one.sample_rate, one.count) for one in releases)


def _least(fits: Callable[[float], bool], low: float, high: float) -> float:
    """Return the least number that fits, to a thousandth; `high` does."""
    while high - low > _PRECISION * high:
        middle = (low + high) / 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high


def certified_epsilon(certificate: dd.Certificate, accountant: Accountant = "rdp") -> float:
    """Return epsilon as it follows from the releases that a certificate lists, whatever it claims.

    Args:
        certificate: Certificate of a set, see `ddsdk.Distilled.certificate`.
        accountant: Accountant, see `Budget`.
    """
    return epsilon_of(_history(certificate.releases), certificate.delta, accountant)


@lru_cache(maxsize=256)
def epsilon_of(history: History, delta: float, accountant: Accountant) -> float:
    """Return the epsilon of a composition of Poisson-sampled Gaussian mechanisms.

    Args:
        history: Noise multiplier, sampling rate and number of releases of each kind.
        delta: Delta of the guarantee.
        accountant: Accountant, see `Budget`.
    """
    if not history:
        return 0.0
    spent = sum(
        rdp.compute_rdp(q=rate, noise_multiplier=noise, steps=count, orders=_ORDERS) for noise, rate, count in history
    )
    with warnings.catch_warnings():
        # Of an order at the edge: the bound is a little looser there, and still one.
        warnings.filterwarnings("ignore", message="Optimal order is the")
        loose = max(0.0, float(rdp.get_privacy_spent(orders=_ORDERS, rdp=spent, delta=delta)[0]))
    if accountant == "rdp" or loose > _TIGHT_BELOW:
        return loose
    counter = create_accountant(mechanism="prv")
    counter.history = list(history)
    try:
        return min(loose, max(0.0, float(counter.get_epsilon(delta=delta))))
    except (ValueError, OverflowError, RuntimeError):
        # Its grid fails for tiny and huge losses; both are upper bounds.
        return loose
