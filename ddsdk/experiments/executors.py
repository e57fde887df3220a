"""Executors of work units: this process, several processes, external workers on the store, or a Ray cluster."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import secrets
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from typing import Any, Protocol, final

from ddsdk.experiments.worker import UNIT_ERRORS, FinishedUnit, UnitGraph, compute_timed, work
from ddsdk.foundation import CheckedDataclass, Compute, MissingExtraError, PositiveInt, Store, Unit

_PAUSE = 0.1
_GRACE = 5.0
"""Seconds for a worker to end after the signal to do so."""
_DEATHS = 3
"""Number of workers killed during the same unit after which the unit counts as failed."""


class Executor(Protocol):
    """Computes work units. The results do not depend on the executor."""

    def run(self, store: Store, units: Sequence[Unit], compute: Compute) -> Iterator[FinishedUnit]:
        """Compute the units without a stored result and yield each finished unit.

        Args:
            store: Store of units and results.
            units: Units to compute, each after the units that it needs.
            compute: Function from a unit and the results that it needs to its result. Other processes import it.
        """
        ...


def _request(store: Store, units: Sequence[Unit]) -> tuple[list[FinishedUnit], list[Unit]]:
    """Return the units with a stored result and the missing units, which are requested from the store."""
    stored = [FinishedUnit(unit, kept=True) for unit in units if store.read(unit.id) is not None]
    stored_ids = {finished.unit.id for finished in stored}
    missing = [unit for unit in units if unit.id not in stored_ids]
    store.request(missing)
    return stored, missing


@final
@dataclass(frozen=True)
class InProcess:
    """Executor that computes one unit after another in this process.

    Examples:
        >>> store, unit = Store("store"), Unit("square", {"value": 3})
        >>> [done.failure for done in InProcess().run(store, [unit], lambda unit, _: b"%d" % unit.config["value"] ** 2)]
        [None]
        >>> store.read(unit.id)
        b'9'
    """

    def run(self, store: Store, units: Sequence[Unit], compute: Compute) -> Iterator[FinishedUnit]:
        """Yield each unit after its computation. See `Executor.run`."""
        stored, missing = _request(store, units)
        yield from stored
        yield from work(store, compute, units=missing)


@final
@dataclass(frozen=True)
class SharedFolder:
    """Executor that computes nothing itself: ``ddsdk worker`` processes on the same store compute the units."""

    def run(self, store: Store, units: Sequence[Unit], compute: Compute) -> Iterator[FinishedUnit]:  # noqa: ARG002
        """Yield each unit after a worker has computed it. See `Executor.run`."""
        stored, missing = _request(store, units)
        yield from stored
        graph = UnitGraph(store, missing, whole=True)
        while len(graph):
            yield from graph.settle()
            time.sleep(_PAUSE)


@final
@dataclass(frozen=True)
class Processes(CheckedDataclass):
    """Executor with several processes on this machine. A killed process is replaced and its unit is computed again.

    A process that is stopped for longer than a lease lasts is killed and replaced.

    Attributes:
        count: Number of worker processes, at least 1.
    """

    count: PositiveInt

    def run(self, store: Store, units: Sequence[Unit], compute: Compute) -> Iterator[FinishedUnit]:
        """Yield each unit after a worker process has computed it. See `Executor.run`."""
        stored, missing = _request(store, units)
        yield from stored
        graph, workers, deaths = UnitGraph(store, missing, whole=True), list[BaseProcess](), Counter[str]()
        stopped: dict[BaseProcess, float] = {}
        try:
            while len(graph):
                yield from graph.settle()
                _kill_stopped(workers, stopped, store.lease_seconds)
                workers = _alive(workers, store, missing, deaths)
                size = min(self.count, len(graph))
                workers += [_start(store, missing, compute) for _ in range(size - len(workers))]
                time.sleep(_PAUSE)
        finally:
            for process in workers:
                process.terminate()
            for process in workers:
                process.join(_GRACE)
                process.kill()  # a stopped process does not receive the signal to end
                process.join()
                store.release(process.pid or 0)


def _kill_stopped(workers: Sequence[BaseProcess], stopped: dict[BaseProcess, float], limit: float) -> None:
    """Kill workers that are stopped (SIGSTOP) for longer than a lease lasts, because they would never end."""
    now = time.monotonic()
    for process in workers:
        if not _is_stopped(process):
            stopped.pop(process, None)
        elif now - stopped.setdefault(process, now) > limit:
            process.kill()


def _is_stopped(process: BaseProcess) -> bool:
    if process.pid is None or not hasattr(os, "waitid"):  # not on Windows
        return False
    try:
        return os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return False


def _start(store: Store, units: Sequence[Unit], compute: Compute) -> BaseProcess:
    arguments = str(store.folder), store.lease_seconds, units, compute, os.getpid()
    # Not "fork": a forked process may inherit a lock of torch's thread pools in the locked state and hang.
    process = multiprocessing.get_context("spawn").Process(target=_child, args=arguments, daemon=True)
    process.start()
    return process


def _child(folder: str, lease_seconds: float, units: Sequence[Unit], compute: Compute, parent: int) -> None:
    """Compute units until none is left or the parent process has ended."""
    store = Store(folder, lease_seconds=lease_seconds)
    for _ in work(store, compute, units=units, stop=lambda: os.getppid() != parent):
        pass


def _alive(workers: list[BaseProcess], store: Store, units: Sequence[Unit], deaths: Counter[str]) -> list[BaseProcess]:
    """Return the living worker processes and release the leases of the dead ones.

    Raises:
        RuntimeError: If several workers ended with an error outside any unit, such as a full disk or missing data.
    """
    for process in workers:
        if process.is_alive() or process.pid is None:
            continue
        process.join()
        leased = store.release(process.pid)
        if not leased and process.exitcode:
            deaths[""] += 1
            if deaths[""] >= _DEATHS:
                code = process.exitcode
                raise RuntimeError(
                    f"{_DEATHS} workers ended with exit code {code}; see their messages on standard error"
                )
        deaths.update(leased)
        for unit in units:
            if unit.id in leased and deaths[unit.id] >= _DEATHS:
                message = f"{_DEATHS} workers were killed during this unit, exit code {process.exitcode}"
                store.fail(unit, RuntimeError(message))
    return [process for process in workers if process.is_alive()]


@final
@dataclass(frozen=True)
class RayTasks:
    """Executor with a task of a Ray cluster for each unit. Only this process writes to the store.

    Ray transfers the needed results to a task and its result back, so machines need no common folder. Experts and
    teachers are shared between tasks only if ``$DDSDK_CACHE`` is a common folder. A Ray cluster executes any code sent
    to it and belongs in a trusted network. A cluster started here is bound to the loopback address and needs a token.

    Attributes:
        address: Address of a running cluster; None for ``$RAY_ADDRESS``, or without it for a new local cluster.
        cpus: Number of CPUs of a new local cluster; None for all.
        retries: Number of repetitions of a unit after the loss of its worker or machine.
    """

    address: str | None = None
    cpus: int | None = None
    retries: int = 3

    def run(self, store: Store, units: Sequence[Unit], compute: Compute) -> Iterator[FinishedUnit]:
        """Yield each unit after a task has computed it. See `Executor.run`.

        A missing Ray is a `MissingExtraError`. If a cluster has to be started, but Ray was imported without token
        authentication before, this is a ValueError.
        """
        ray = self._ray()
        stored, missing = _request(store, units)
        yield from stored
        task = ray.remote(num_cpus=1, max_retries=self.retries)(compute_timed)
        # Stored once in the cluster: as an argument, the function with its data would be sent with every task.
        compute_reference = ray.put(compute)
        graph, running = UnitGraph(store, missing, whole=True), dict[Any, Unit]()
        while len(graph):
            yield from graph.settle()
            running_ids = {unit.id for unit in running.values()}
            for unit in graph.ready():
                inputs = None if unit.id in running_ids else store.needed(unit)
                if inputs is not None:
                    running[task.remote(unit, inputs, compute_reference)] = unit
            if not running:
                continue
            finished, _ = ray.wait(list(running), num_returns=1, timeout=1.0)
            for reference in finished:
                unit = running.pop(reference)
                try:
                    store.publish(unit, *ray.get(reference))
                except ray.exceptions.RayTaskError as error:
                    if not isinstance(error.cause, UNIT_ERRORS):
                        raise
                    store.fail(unit, error.cause)
                except ray.exceptions.RayError as error:
                    store.fail(unit, error)

    def _ray(self) -> Any:  # noqa: ANN401
        """Return the module ray, connected to a cluster.

        Raises:
            MissingExtraError: If Ray is not installed.
        """
        imported_ray = sys.modules.get("ray")
        if imported_ray is not None and imported_ray.is_initialized():
            return imported_ray
        local = self.address is None and not os.environ.get("RAY_ADDRESS")
        if local:
            _require_token(imported=imported_ray is not None)
        try:
            ray: Any = importlib.import_module("ray")
        except ImportError:
            raise MissingExtraError("a Ray cluster", "ray", "scale") from None
        # Without "local" Ray would join a running cluster, even of another user, and refuse num_cpus.
        local_options = {"num_cpus": self.cpus, "include_dashboard": False, "_node_ip_address": "127.0.0.1"}
        options = {"address": "local", **local_options} if local else {"address": self.address}
        ray.init(log_to_driver=False, logging_level="ERROR", **options)
        return ray


def _require_token(*, imported: bool) -> None:
    """Turn on token authentication of a local cluster, because an open cluster executes code of every local user.

    Args:
        imported: Whether ray is already imported, which fixes its authentication mode.

    Raises:
        ValueError: If ray is imported without an authentication mode.
    """
    if imported and "RAY_AUTH_MODE" not in os.environ:
        raise ValueError(
            "RAY_AUTH_MODE must be set before ray is imported, because RayTasks starts a cluster with a token: "
            "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN, or leave the import to RayTasks, or call ray.init() first"
        )
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    if os.environ["RAY_AUTH_MODE"] == "token" and not os.environ.get("RAY_AUTH_TOKEN_PATH"):
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    # Without this variable Ray replaces the loopback address by the network address of the machine.
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
