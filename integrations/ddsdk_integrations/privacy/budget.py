"""Privacy budget, ledger of the releases, and the smallest noise with which further releases fit the budget."""

from __future__ import annotations

import math
import operator
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, final

import msgspec

from ddsdk.artefact import NoisedRelease, require_line
from ddsdk.foundation import (
    CheckedDataclass,
    FolderBusyError,
    PositiveFloat,
    clean,
    lock,
    note,
    readable_json,
    remove_stale_files,
    require,
    require_count,
    strict_json,
    write_atomic,
)
from ddsdk_integrations.privacy.accounting import ACCOUNTANTS, Accountant, epsilon_of, history_of
from ddsdk_integrations.privacy.refusals import PrivacyError

_PRECISION = 1e-3
_LEAST_NOISE, _MOST_NOISE = 1e-3, 1e6
# The last 2 % of epsilon would buy a release with so much noise that it is useless.
_SPENT_SHARE = 0.98
_IN_MEMORY = "the ledger was kept in memory: it does not count releases of these records by other processes"
# Another writer of the folder computes one epsilon at most, which takes seconds by the PRV accountant.
_WAIT_SECONDS, _PAUSE_SECONDS = 60.0, 0.005
_MOST_BYTES = 1 << 24


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

    Examples:
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
        require(self.accountant in ACCOUNTANTS, "accountant", "be rdp or prv", self.accountant)


@final
class Ledger:
    """Count of all releases of private records, which refuses a release that would exceed the budget.

    A release is entered before it is made. Threads and processes may enter releases at the same time. `ValueError` is
    raised if `path` is not a file of a ledger in an existing folder, or holds another budget.

    Args:
        budget: Budget of all releases, including those of restarts and trials.
        path: JSON file of the ledger in an existing folder, which several runs may share. Entries of a crashed run
            count as spent, even if the run did not make its releases. If an older file is put back, the larger count of
            this process is kept, with a note. None keeps the ledger in memory: it ends with the process, cannot be
            copied or used after a fork, and does not count releases by other processes.

    Examples:
        >>> from ddsdk_integrations.privacy import Budget, Ledger
        >>> ledger = Ledger(Budget(epsilon=1, delta=1e-5))
        >>> noise = ledger.noise_for(sample_rate=0.01, releases=100)
        >>> ledger.epsilon
        0.0
    """

    def __init__(self, budget: Budget, path: str | os.PathLike[str] | None = None) -> None:
        self._budget = budget
        # Resolved: symbolic links and changes of the working folder must lead to one file and one lock.
        self._path = None if path is None else Path(path).resolve()
        self._content = _LedgerContent(budget=asdict(budget))
        self._behind = False
        self._own_process()
        if self._path is not None:
            folder = str(self._path.parent)
            require(self._path.parent.is_dir(), "path", "lie in an existing folder: make it first", folder)
            remove_stale_files(self._path.parent)
            if not self._path.exists():
                # A folder that cannot be written is found now, and not at the first release.
                with self._locked():
                    self._write()
            self._read()

    def __reduce__(self) -> tuple[type[Ledger], tuple[Budget, str]]:
        """Return what opens the same file again, for copies and other processes.

        Raises:
            PrivacyError: If the ledger is in memory: a copy would be a second count.
        """
        if self._path is None:
            raise PrivacyError("a ledger in memory must not be copied or stored, got a copy: give it a path")
        return Ledger, (self.budget, str(self._path))

    @property
    def budget(self) -> Budget:
        """Budget of all releases."""
        return self._budget

    @property
    def releases(self) -> tuple[NoisedRelease, ...]:
        """Entered releases; equal kinds are one entry, in the order of the ledgers that entered them."""
        return self._read().total

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
        longer than the release. A `ddsdk.foundation.FolderBusyError` means that another process has been writing into
        the folder of the file for a minute.

        Raises:
            BudgetSpentError: If the releases would exceed the budget.
        """
        with self._locked():
            planned = _counted((*self._content.total, *releases), operator.add)
            cost = self._cost(planned)
            if not cost <= self.budget.epsilon:
                kinds = " and ".join(f"{release.count} releases of {release.what}" for release in releases)
                raise BudgetSpentError(
                    f"{kinds} would bring epsilon to {cost:.4g}, and the budget is {self.budget.epsilon:g} at delta "
                    f"{self.budget.delta:g}: take more noise, fewer releases or a lower sampling rate"
                )
            entered = self._content.releases
            own = _counted((*entered.get(self._writer, ()), *releases), operator.add)
            self._write(releases={**entered, self._writer: own})

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
        spent = history_of((*self.releases, *after))
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
        return epsilon_of(history_of(releases), self.budget.delta, self.budget.accountant)

    def _own_process(self) -> None:
        """Prepare for this process; after a fork, the name and the lock belong to the parent."""
        self._process = os.getpid()
        self._guard = threading.RLock()
        self._entered = False
        # Each owner of the file counts on its own, so that an older file is repaired exactly: by the larger count of
        # each owner, and not of all together. The leading number keeps the order of the owners.
        self._writer = f"{len(self._content.releases):06}-{secrets.token_hex(8)}"

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Keep other threads of this process out.

        Raises:
            PrivacyError: If the ledger is in memory and this process is a fork of its process.
        """
        if self._process != os.getpid():
            if self._path is None:
                raise PrivacyError(
                    "a ledger in memory must stay in its process, got a fork, whose releases it could not count: give "
                    "the ledger a path"
                )
            self._own_process()
        with self._guard:
            yield

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep all other threads and processes out, with the file read anew.

        Raises:
            PrivacyError: If this thread is inside already, such as in a signal handler.
        """
        with self._exclusive(), ExitStack() as stack:
            if self._entered:
                raise PrivacyError("a ledger must not be changed during a change, got a call from a signal or a hook")
            self._entered = True
            stack.callback(setattr, self, "_entered", False)
            if self._path is not None:
                stack.enter_context(_patient_lock(self._path.parent))
                self._read()
                if self._behind:
                    self._write()
            yield

    def _read(self) -> _LedgerContent:
        """Return the content: of each owner, the larger count of the file and of this process."""
        with self._exclusive():
            if self._path is None:
                return self._content
            stored = self._stored(self._path) or _LedgerContent(budget=asdict(self.budget))
            content = _merged(stored, self._content)
            behind, noted = content.releases != stored.releases, self._behind
            self._content, self._behind = content, behind
            if behind and not noted:
                note(
                    f"ledger {self._path.name!r} holds fewer releases than this process has counted: an older file was "
                    "put back, or the file was removed; the larger count is kept"
                )
            return content

    def _stored(self, path: Path) -> _LedgerContent | None:
        """Return the content of the file; None if there is no file.

        Raises:
            ValueError: If the file holds no ledger, or that of another budget.
        """
        if not path.exists():
            return None
        require(path.is_file(), "path", "be a file", path.name)
        try:
            require(path.stat().st_size <= _MOST_BYTES, "size", f"be at most {_MOST_BYTES} bytes", path.stat().st_size)
            values = strict_json(path.read_bytes())
            if isinstance(values, dict) and isinstance(values.get("releases"), list):
                values["releases"] = {"": values["releases"]}  # ledgers of before the counts of owners
            stored = msgspec.convert(values, _LedgerContent)
            for text in stored.assumptions:
                require_line("assumption", text)
        except (ValueError, msgspec.ValidationError) as error:
            raise ValueError(f"path must hold a ledger, got {path.name!r}: {clean(str(error))}") from None
        same_budget = stored.budget == asdict(self.budget)
        require(same_budget, "budget", f"be that of the ledger, {clean(str(stored.budget))}", self.budget)
        # A file may list a kind twice; the merge with the counts in memory takes the larger entry of a kind.
        summed = {owner: _counted(releases, operator.add) for owner, releases in stored.releases.items()}
        return msgspec.structs.replace(stored, releases=summed)

    def _write(self, **changes: Any) -> None:  # noqa: ANN401
        content = msgspec.structs.replace(self._content, **changes)
        if self._path is not None:
            write_atomic(self._path, readable_json(msgspec.to_builtins(content)))
        self._content, self._behind = content, False


class _LedgerContent(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Content of the ledger's file; releases by their owner, which is one ledger object in one process."""

    budget: dict[str, float | str]
    releases: dict[str, tuple[NoisedRelease, ...]] = {}
    assumptions: tuple[str, ...] = ()

    @property
    def total(self) -> tuple[NoisedRelease, ...]:
        """Releases of all owners; equal kinds are one entry."""
        return _counted((one for owner in sorted(self.releases) for one in self.releases[owner]), operator.add)


def _merged(one: _LedgerContent, other: _LedgerContent) -> _LedgerContent:
    """Return the larger count of each owner and kind; the count of an owner never falls."""
    releases = {
        owner: _counted((*one.releases.get(owner, ()), *other.releases.get(owner, ())), max)
        for owner in sorted({*one.releases, *other.releases})
    }
    assumptions = tuple(dict.fromkeys((*one.assumptions, *other.assumptions)))
    return msgspec.structs.replace(one, releases=releases, assumptions=assumptions)


def _counted(releases: Iterable[NoisedRelease], combine: Callable[[int, int], int]) -> tuple[NoisedRelease, ...]:
    """Return the releases with equal kinds as one entry, whose counts are combined: their sum, or the larger one.

    Raises:
        TypeError: If a release is of another type.
    """
    counts: dict[NoisedRelease, int] = {}
    for release in releases:
        if not isinstance(release, NoisedRelease):
            raise TypeError(f"releases must be NoisedRelease, got {type(release).__name__}")
        kind = msgspec.structs.replace(release, count=1)
        counts[kind] = combine(counts.get(kind, 0), release.count)
    return tuple(msgspec.structs.replace(kind, count=count) for kind, count in counts.items())


@contextmanager
def _patient_lock(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder; another writer is waited for, a minute at most.

    Raises:
        FolderBusyError: If the folder stays locked.
    """
    deadline = time.monotonic() + _WAIT_SECONDS
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(lock(folder))
                break
            except FolderBusyError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(_PAUSE_SECONDS)
        yield


def _smallest_fit(fits: Callable[[float], bool], low: float, high: float) -> float:
    """Return the smallest number that fits, to a thousandth, by bisection; `high` fits."""
    while high - low > _PRECISION * high:
        middle = (low + high) / 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high
