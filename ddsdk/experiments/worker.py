"""Worker loop: computes the units of a store, one after another."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from ddsdk.foundation import Compute, Failure, Store, Timing, Unit

UNIT_ERRORS = (ValueError, TypeError, ArithmeticError, RuntimeError, MemoryError, LookupError)
"""Errors that fail only one unit. Any other error, such as that of a full disk, ends the worker."""

_PAUSE = 0.2
_LONGEST_PAUSE = 2.0


class FinishedUnit(NamedTuple):
    """Computed or failed unit.

    Attributes:
        unit: Computed or failed unit of work.
        failure: Error of a failed unit; None for a unit with a result.
        kept: Whether the result was stored before this run.
    """

    unit: Unit
    failure: Failure | None = None
    kept: bool = False


class UnitGraph:
    """Unfinished units in the order of their dependencies.

    Args:
        store: Store of units and results.
        units: Unfinished units to follow.
        whole: Whether every needed unit is in `units` or has a result. Otherwise it may still be requested, and its
            absence is no failure.
    """

    def __init__(self, store: Store, units: Sequence[Unit], *, whole: bool) -> None:
        self._store = store
        self._whole = whole
        self._open = {unit.id: unit for unit in units}
        self._failures: dict[str, Failure] = {}
        self._with_result: set[str] = set()

    def __len__(self) -> int:
        """Return the number of unfinished units."""
        return len(self._open)

    def settle(self) -> list[FinishedUnit]:
        """Return the units that any process has finished since the last call.

        A unit that needs a failed unit counts as failed.
        """
        failed = self._store.failed()
        # Read after the failures: a failed unit may be computed successfully between the two readings.
        self._with_result = self._store.finished()
        for unit_id in failed - self._with_result - self._failures.keys():
            failure = self._store.failure(unit_id)
            if failure is not None:
                self._failures[unit_id] = failure
        finished: list[FinishedUnit] = []
        # Repeated, because a failure passes on to the units that need the failed one.
        while newly_finished := [f for f in map(self._finished, self._open.values()) if f is not None]:
            for finished_unit in newly_finished:
                del self._open[finished_unit.unit.id]
                if finished_unit.failure is not None:
                    self._failures[finished_unit.unit.id] = finished_unit.failure
            finished += newly_finished
        return finished

    def ready(self) -> list[Unit]:
        """Return the unfinished units whose needed results existed at the last `settle`."""
        return [unit for unit in self._open.values() if self._with_result.issuperset(unit.needs)]

    def _finished(self, unit: Unit) -> FinishedUnit | None:
        if unit.id in self._with_result:
            return FinishedUnit(unit)
        failure = self._failures.get(unit.id)
        for need in unit.needs:
            failure = failure or self._failures.get(need)
            if failure is None and self._whole and need not in self._open and need not in self._with_result:
                failure = Failure("LookupError", f"the result of the needed unit {need} is missing")
        return None if failure is None else FinishedUnit(unit, failure)


def compute_timed(unit: Unit, inputs: dict[str, bytes], compute: Compute) -> tuple[bytes, Timing]:
    """Return the result of a unit and the time of its computation."""
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
) -> Iterator[FinishedUnit]:
    """Compute the units of a store that no other process computes, until all are finished.

    An error of a unit is written to the store. It fails this unit and the units that need it, but no others.

    Args:
        store: Store of requested units and results.
        compute: Function from a unit and the results that it needs to its result.
        units: Units to finish; None for all requested units of the store, also later ones.
        wants: Predicate for the units of this worker. It neither computes other units nor waits for them.
        stop: Predicate that is checked between two units; true ends the loop.

    Yields:
        Each unit after this or another process has finished it.

    Examples:
        >>> store = Store("store")
        >>> store.request([Unit("echo", {"text": "a"}), Unit("echo", {"text": "b"})])
        >>> sorted(done.unit.config["text"] for done in work(store, lambda unit, _: b"result"))
        ['a', 'b']
    """
    finished_ids: set[str] = set()
    graph = UnitGraph(store, [unit for unit in units or () if wants(unit)], whole=True)
    pause = _PAUSE
    while not stop():
        if units is None:
            requested = [unit for unit in store.requested() if unit.id not in finished_ids and wants(unit)]
            graph = UnitGraph(store, requested, whole=False)
        for finished in graph.settle():
            finished_ids.add(finished.unit.id)
            yield finished
        if not len(graph):
            return
        ready = graph.ready()
        # The first unit depends on the process id, so that workers do not all try to lease the same unit.
        start = os.getpid() % max(1, len(ready))
        if any(_try(store, unit, compute) for unit in [*ready[start:], *ready[:start]]):
            pause = _PAUSE
        else:
            # Other workers compute all ready units.
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)


def _try(store: Store, unit: Unit, compute: Compute) -> bool:
    """Compute a unit unless another worker has leased it.

    Returns:
        Whether the unit was computed or failed.
    """
    with store.lease(unit.id) as leased:
        # Checked again under the lease: another worker may have finished the unit meanwhile.
        if not leased or store.has(unit.id) or store.failure(unit.id) is not None:
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
