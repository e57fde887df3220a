"""Privacy budget, ledger of the releases, and the smallest noise with which further releases fit the budget."""

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
    CheckedDataclass,
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
# The last 2 % of epsilon would buy a release with so much noise that it is useless.
_SPENT_SHARE = 0.98
# The grid of the PRV accountant grows with epsilon, and a guarantee of epsilon 100 is meaningless anyway.
_TIGHT_BELOW = 100.0
_IN_MEMORY = "the ledger was kept in memory: it does not count releases of these records by other processes"
# Renyi orders: low orders serve large epsilons, high orders small ones; the default orders of Opacus end at 63.
_ORDERS = [1 + i / 20 for i in range(1, 200)] + [float(i) for i in range(11, 128)] + [2.0**i for i in range(7, 11)]


class BudgetSpentError(RuntimeError):
    """A release would exceed the privacy budget; no record was read for it."""


@final
@dataclass(frozen=True, kw_only=True)
class Budget(CheckedDataclass):
    """Limit of (epsilon, delta)-differential privacy; neighbouring data sets differ by one added or removed record.

    Attributes:
        epsilon: Largest epsilon of all releases together.
        delta: Delta of the guarantee, in 0 < value < 1; a meaningful delta lies below one over the number of records.
        accountant: Privacy accountant: ``"rdp"`` is quick and a few per cent loose, ``"prv"`` is tight and slow.

    Example:
        >>> from ddsdk_integrations.privacy import Budget
        >>> Budget(epsilon=1, delta=1e-5).accountant
        'rdp'
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
    """Count of all releases of private records, which refuses a release that would exceed the budget.

    A release is entered before it is made.

    Args:
        budget: Budget of all releases, including those of restarts and trials.
        path: JSON file of the ledger, which several runs may share. Entries of a crashed run count as spent, even if
            the run did not make its releases. None keeps the ledger in memory: it ends with the process, and releases
            by other processes are not counted.

    Example:
        >>> from ddsdk_integrations.privacy import Budget, Ledger
        >>> ledger = Ledger(Budget(epsilon=1, delta=1e-5))
        >>> noise = ledger.noise_for(sample_rate=0.01, releases=100)
        >>> ledger.epsilon
        0.0
    """

    def __init__(self, budget: Budget, path: str | os.PathLike[str] | None = None) -> None:
        self.budget = budget
        # Resolved: symbolic links and changes of the working folder must lead to one file and one lock.
        self._path = None if path is None else Path(path).resolve()
        self._content = _LedgerContent(budget=asdict(budget))
        self._read()

    @property
    def releases(self) -> tuple[NoisedRelease, ...]:
        """Entered releases; equal kinds are one entry, in the order of their first release."""
        return self._read().releases

    @property
    def assumptions(self) -> tuple[str, ...]:
        """Assumptions of all releases in the ledger."""
        in_memory = () if self._path else (_IN_MEMORY,)
        return (*self._read().assumptions, *in_memory)

    @property
    def epsilon(self) -> float:
        """Spent epsilon, at the delta of the budget."""
        return self._cost(self.releases)

    @property
    def accountant(self) -> str:
        """Name of the accountant with the version of Opacus, for certificates."""
        return f"{self.budget.accountant} (opacus {version('opacus')})"

    def assume(self, what: str) -> None:
        """Add an assumption of the releases: one short line of text."""
        require_line("assumption", what)
        with self._locked():
            if what not in self._content.assumptions:
                self._write(assumptions=(*self._content.assumptions, what))

    def reserve(self, *releases: NoisedRelease) -> None:
        """Enter releases before they are made, all or none; they count from now on, even if they are never made.

        All releases of a run are composed at once, because one call of the accountant for each release would take
        longer than the release. A `ddsdk.foundation.FolderBusyError` means that another process is writing the file.

        Raises:
            BudgetSpentError: If the releases would exceed the budget.
        """
        with self._locked():
            planned = self._content.releases
            for release in releases:
                planned = _joined(planned, release)
            cost = self._cost(planned)
            if cost > self.budget.epsilon:
                kinds = " and ".join(f"{release.count} releases of {release.what}" for release in releases)
                raise BudgetSpentError(
                    f"{kinds} would bring epsilon to {cost:.4g}, and the budget is {self.budget.epsilon:g} at delta "
                    f"{self.budget.delta:g}: take more noise, fewer releases or a lower sampling rate"
                )
            self._write(releases=planned)

    def noise_for(
        self, *, sample_rate: float, releases: int, share: float = 1.0, after: tuple[NoisedRelease, ...] = ()
    ) -> float:
        """Return the smallest noise multiplier, to a thousandth, with which further releases fit the budget.

        Args:
            sample_rate: Probability with which a record is in a sample, in 0 < value <= 1; it must be public.
            releases: Number of further releases.
            share: Share of the budget's epsilon, in 0 < value <= 1, that all releases up to these may spend.
            after: Planned releases that will be entered before these.

        Raises:
            BudgetSpentError: If the budget is spent, or no noise multiplier fits the remaining epsilon.
        """
        require_count("releases", releases)
        require(0 < sample_rate <= 1, "sample_rate", "lie in 0 < value <= 1", sample_rate)
        require(0 < share <= 1, "share", "lie in 0 < value <= 1", share)
        target = self.budget.epsilon * share
        delta, tight = self.budget.delta, self.budget.accountant
        spent = _history((*self.releases, *after))
        before = epsilon_of(spent, delta, tight)
        if before >= _SPENT_SHARE * target:
            raise BudgetSpentError(
                f"epsilon {before:.4g} is spent, and the limit is {target:.4g}: no release fits the rest. Take a "
                "ledger with a larger budget"
            )

        def fits(noise: float, accountant: Accountant) -> bool:
            return epsilon_of((*spent, (noise, sample_rate, releases)), delta, accountant) <= target

        # Epsilon by RDP is an upper bound of epsilon by PRV: noise that fits under RDP fits under PRV too.
        quick: Accountant = "rdp" if epsilon_of(spent, delta, "rdp") < _SPENT_SHARE * target else tight
        high = 1.0
        while high > _LEAST_NOISE and fits(high / 2, quick):
            high /= 2
        while not fits(high, quick):
            high *= 2
            if high > _MOST_NOISE:
                raise BudgetSpentError(
                    f"no noise multiplier up to {_MOST_NOISE:g} makes {releases} releases fit: epsilon {before:.4g} of "
                    f"{target:.4g} is spent. Take fewer releases or a lower sampling rate"
                )
        high = _smallest_fit(lambda noise: fits(noise, quick), high / 2, high)
        if tight != quick:
            high = _smallest_fit(lambda noise: fits(noise, tight), 0.8 * high, high)
        return math.ceil(high * 1e6) / 1e6

    def _cost(self, releases: tuple[NoisedRelease, ...]) -> float:
        return epsilon_of(_history(releases), self.budget.delta, self.budget.accountant)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the lock of the ledger's folder, with the file read anew."""
        if self._path is None:
            yield
            return
        with lock(self._path.parent):
            self._read()
            yield

    def _read(self) -> _LedgerContent:
        if self._path is None or not self._path.exists():
            return self._content
        try:
            stored = msgspec.convert(strict_json(self._path.read_bytes()), _LedgerContent)
        except (ValueError, msgspec.ValidationError) as error:
            raise ValueError(f"path must hold a ledger, got {self._path.name!r}: {error}") from None
        same_budget = stored.budget == asdict(self.budget)
        require(same_budget, "budget", f"be that of the ledger, {stored.budget}", self.budget)
        self._content = stored
        return stored

    def _write(self, **changes: Any) -> None:  # noqa: ANN401
        content = msgspec.structs.replace(self._content, **changes)
        if self._path is not None:
            write_atomic(self._path, readable_json(msgspec.to_builtins(content)))
        self._content = content


class _LedgerContent(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Content of the ledger's file."""

    budget: dict[str, float | str]
    releases: tuple[NoisedRelease, ...] = ()
    assumptions: tuple[str, ...] = ()


def _joined(releases: tuple[NoisedRelease, ...], new: NoisedRelease) -> tuple[NoisedRelease, ...]:
    """Return the releases with `new` added: to the count of its kind, or as a new kind."""
    for i, old in enumerate(releases):
        if msgspec.structs.replace(old, count=new.count) == new:
            return (*releases[:i], msgspec.structs.replace(old, count=old.count + new.count), *releases[i + 1 :])
    return (*releases, new)


def _history(releases: tuple[NoisedRelease, ...]) -> History:
    return tuple((release.noise_multiplier, release.sample_rate, release.count) for release in releases)


def _smallest_fit(fits: Callable[[float], bool], low: float, high: float) -> float:
    """Return the smallest number that fits, to a thousandth, by bisection; `high` fits."""
    while high - low > _PRECISION * high:
        middle = (low + high) / 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high


def certified_epsilon(certificate: dd.Certificate, accountant: Accountant = "rdp") -> float:
    """Return epsilon, computed anew from the releases of a certificate and not read from its claim.

    Args:
        certificate: Certificate of a set, see `ddsdk.Distilled.certificate`.
        accountant: Privacy accountant, ``"rdp"`` or ``"prv"``; see `Budget`.

    Example:
        >>> import ddsdk
        >>> from ddsdk_integrations.privacy import Budget, Ledger, PrivateData, certified_epsilon, private_class_sizes
        >>> real = ddsdk.load("digits").with_preprocess(ddsdk.Preprocess.unit(1))
        >>> private = PrivateData(real, Ledger(Budget(epsilon=1, delta=1e-5)), class_size=135)
        >>> sizes = private_class_sizes(private, noise_multiplier=20)
        >>> certified_epsilon(private.certificate) == private.certificate.epsilon < 1
        True
    """
    return epsilon_of(_history(certificate.releases), certificate.delta, accountant)


@lru_cache(maxsize=256)
def epsilon_of(history: History, delta: float, accountant: Accountant) -> float:
    """Return the epsilon of a composition of Poisson-sampled Gaussian mechanisms.

    Args:
        history: Noise multiplier, sampling rate and number of releases of each kind.
        delta: Delta of the guarantee, in 0 < value < 1.
        accountant: Privacy accountant, ``"rdp"`` or ``"prv"``; see `Budget`.
    """
    if not history:
        return 0.0
    spent = sum(
        rdp.compute_rdp(q=rate, noise_multiplier=noise, steps=count, orders=_ORDERS) for noise, rate, count in history
    )
    with warnings.catch_warnings():
        # Opacus warns if the best Renyi order is the first or last one: the bound is then valid, but looser.
        warnings.filterwarnings("ignore", message="Optimal order is the")
        loose = max(0.0, float(rdp.get_privacy_spent(orders=_ORDERS, rdp=spent, delta=delta)[0]))
    if accountant == "rdp" or loose > _TIGHT_BELOW:
        return loose
    counter = create_accountant(mechanism="prv")
    counter.history = list(history)
    try:
        return min(loose, max(0.0, float(counter.get_epsilon(delta=delta))))
    except (ValueError, OverflowError, RuntimeError):
        # The grid of the PRV accountant fails for tiny and huge privacy losses; the RDP bound is still valid.
        return loose
