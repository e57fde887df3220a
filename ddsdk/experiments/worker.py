"""Work off the units of a store, one after another."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from ddsdk.foundation import Compute, Failure, Store, Timing, Unit

UNIT_ERRORS = (ValueError, TypeError, ArithmeticError, RuntimeError, MemoryError, LookupError)
"""Errors of one unit, which leave the others alone. An error of the disk ends the worker instead."""

_PAUSE = 0.2
_LONGEST_PAUSE = 2.0


class Done(NamedTuple):
    """A unit that is finished one way or the other.

    Attributes:
        unit: The unit.
        failure: Reason why it has no result; None where it has one.
        kept: Whether the result was there before.
    """

    unit: Unit
    failure: Failure | None = None
    kept: bool = False


class Graph:
    """Units of a list that are not finished, and those among them that can be computed now.

    Args:
        store: Store of the units.
        units: Units that count.
        whole: Whether what they need is among them or has a result. Otherwise it may still be asked for.
    """

    def __init__(self, store: Store, units: Sequence[Unit], *, whole: bool) -> None:
        self._store = store
        self._whole = whole
        self._open = {unit.id: unit for unit in units}
        self._lost: dict[str, Failure] = {}
        self._there: set[str] = set()

    def __len__(self) -> int:
        """Number of units that are left."""
        return len(self._open)

    def settle(self) -> list[Done]:
        """Return what has been finished since the last time, by whomever. What needs a failed unit has failed too."""
        failed = self._store.failed()
        # Looked at behind the failures: a result that came between hides an older failure.
        self._there = self._store.finished()
        for unit_id in failed - self._there - self._lost.keys():
            failure = self._store.failure(unit_id)
            if failure is not None:
                self._lost[unit_id] = failure
        found: list[Done] = []
        while done := [d for d in map(self._done, self._open.values()) if d is not None]:
            for d in done:
                del self._open[d.unit.id]
                if d.failure is not None:
                    self._lost[d.unit.id] = d.failure
            found += done
        return found

    def ready(self) -> list[Unit]:
        """Return the units whose needs were there at the last `settle`, and that were not finished."""
        return [unit for unit in self._open.values() if self._there.issuperset(unit.needs)]

    def _done(self, unit: Unit) -> Done | None:
        if unit.id in self._there:
            return Done(unit)
        failure = self._lost.get(unit.id)
        for need in unit.needs:
            failure = failure or self._lost.get(need)
            if failure is None and self._whole and need not in self._open and need not in self._there:
                failure = Failure("LookupError", f"it needs unit {need}, whose result is gone")
        return None if failure is None else Done(unit, failure)


def compute_timed(unit: Unit, inputs: dict[str, bytes], compute: Compute) -> tuple[bytes, Timing]:
    """Return the result of a unit, and what it took."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = compute(unit, inputs)
    return result, Timing.since(wall, cpu)


def work(
    store: Store,
    compute: Compute,
    *,
    units: Sequence[Unit] | None = None,
    wants: Callable[[Unit], bool] = lambda _: True,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Done]:
    """Compute what nobody else computes, until everything is finished.

    An error of a unit is noted in the store, and those who need it are left alone; the others go on.

    Args:
        store: Store where units are asked for and kept.
        compute: Function from a unit and what it needs to its result.
        units: Units that count; None for all that the store is asked for, also later.
        wants: Function that tells whether this worker may compute a unit; others are not waited for.
        stop: Function that ends the work between two units.

    Yields:
        Each unit as it is finished, by this process or by another one.
    """
    seen: set[str] = set()
    graph = Graph(store, [unit for unit in units or () if wants(unit)], whole=True)
    pause = _PAUSE
    while not stop():
        if units is None:
            asked = [unit for unit in store.asked() if unit.id not in seen and wants(unit)]
            graph = Graph(store, asked, whole=False)
        for done in graph.settle():
            seen.add(done.unit.id)
            yield done
        if not len(graph):
            return
        ready = graph.ready()
        # An order of this process's own, so that many workers do not queue for the same unit.
        start = os.getpid() % max(1, len(ready))
        if any(_try(store, unit, compute) for unit in [*ready[start:], *ready[:start]]):
            pause = _PAUSE
        else:
            # Others hold what is left.
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)


def _try(store: Store, unit: Unit, compute: Compute) -> bool:
    """Compute a unit if nobody holds it; tell whether that was tried."""
    with store.lease(unit.id) as held:
        # Somebody may have finished it between the look and the lease.
        if not held or store.has(unit.id) or store.failure(unit.id) is not None:
            return False
        inputs = store.needed(unit)
        if inputs is None:
            return False
        try:
            result, timing = compute_timed(unit, inputs, compute)
        except UNIT_ERRORS as error:
            store.fail(unit, error)
            return True
        store.publish(unit, result, timing)
        return True
