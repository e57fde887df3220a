"""Executors of units: this process, several of this machine, whoever shares the store, or tasks of a Ray cluster."""

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

from ddsdk.experiments.worker import UNIT_ERRORS, Done, Graph, compute_timed, work
from ddsdk.foundation import Checked, Compute, MissingExtraError, PositiveInt, Store, Unit

_PAUSE = 0.1
_DEATHS = 3
"""A unit that has taken so many workers with it is given up."""


class Executor(Protocol):
    """Computes units. The results do not depend on the executor."""

    def run(self, store: Store, units: Sequence[Unit], compute: Compute) -> Iterator[Done]:
        """Ask the store for units and yield each as it is finished; a unit that has a result costs nothing.

        Args:
            store: Store of the units.
            units: Units that are wanted; units that others need come first.
            compute: Function from a unit and what it needs to its result, which other processes can import.
        """
        ...


def _asked(store: Store, units: Sequence[Unit]) -> tuple[list[Done], list[Unit]]:
    """Ask for what has no sound result yet; return what has one, and the others."""
    kept = [Done(unit, kept=True) for unit in units if store.read(unit.id) is not None]
    there = {done.unit.id for done in kept}
    missing = [unit for unit in units if unit.id not in there]
    store.ask(missing)
    return kept, missing


@final
@dataclass(frozen=True)
class InProcess:
    """One unit after another, here."""

    def run(self, store: Store, units: Sequence[Unit], compute: Compute) -> Iterator[Done]:
        """Compute the units one after another."""
        kept, missing = _asked(store, units)
        yield from kept
        yield from work(store, compute, units=missing)


@final
@dataclass(frozen=True)
class Shared:
    """Nobody here, but ``ddsdk worker`` on the store, on this machine or on others."""

    def run(self, store: Store, units: Sequence[Unit], compute: Compute) -> Iterator[Done]:  # noqa: ARG002
        """Wait until others have computed the units."""
        kept, missing = _asked(store, units)
        yield from kept
        graph = Graph(store, missing, whole=True)
        while len(graph):
            yield from graph.settle()
            time.sleep(_PAUSE)


@final
@dataclass(frozen=True)
class Processes(Checked):
    """Several processes of this machine. One that dies is replaced, and costs the unit that it held.

    Attributes:
        count: Number of processes.
    """

    count: PositiveInt

    def run(self, store: Store, units: Sequence[Unit], compute: Compute) -> Iterator[Done]:
        """Compute the units in processes of their own."""
        kept, missing = _asked(store, units)
        yield from kept
        graph, team, deaths = Graph(store, missing, whole=True), list[BaseProcess](), Counter[str]()
        try:
            while len(graph):
                yield from graph.settle()
                team = _alive(team, store, missing, deaths)
                size = min(self.count, len(graph))
                team += [_start(store, missing, compute) for _ in range(size - len(team))]
                time.sleep(_PAUSE)
        finally:
            for process in team:
                process.terminate()
            for process in team:
                process.join()
                store.release(process.pid or 0)


def _start(store: Store, units: Sequence[Unit], compute: Compute) -> BaseProcess:
    given = str(store.folder), store.lease_seconds, units, compute, os.getpid()
    # A forked child would share locks and thread pools that torch holds in the middle of something.
    process = multiprocessing.get_context("spawn").Process(target=_child, args=given, daemon=True)
    process.start()
    return process


def _child(folder: str, lease_seconds: float, units: Sequence[Unit], compute: Compute, parent: int) -> None:
    """Work until nothing is left, or until the parent is gone."""
    store = Store(folder, lease_seconds=lease_seconds)
    for _ in work(store, compute, units=units, stop=lambda: os.getppid() != parent):
        pass


def _alive(team: list[BaseProcess], store: Store, units: Sequence[Unit], deaths: Counter[str]) -> list[BaseProcess]:
    """Return those that are alive, and free what the others held.

    Raises:
        RuntimeError: If several ended with an error of their own, such as a full disk or data that is not there.
    """
    for process in team:
        if process.is_alive() or process.pid is None:
            continue
        process.join()
        held = store.release(process.pid)
        if not held and process.exitcode:
            deaths[""] += 1
            if deaths[""] >= _DEATHS:
                code = process.exitcode
                raise RuntimeError(f"{_DEATHS} workers ended with exit code {code}; they have printed why")
        deaths.update(held)
        for unit in units:
            if unit.id in held and deaths[unit.id] >= _DEATHS:
                store.fail(unit, RuntimeError(f"{_DEATHS} workers died of it, exit code {process.exitcode}"))
    return [process for process in team if process.is_alive()]


@final
@dataclass(frozen=True)
class RayTasks:
    """Tasks of a Ray cluster, one for each unit. Only this process writes to the store.

    What a unit needs travels to it, and the result back, so machines need no folder in common; networks that are
    trained once and kept are shared where ``$DDSDK_CACHE`` is. Ray runs what it is sent: a trusted network only. Where
    none is running, one is started here: on the loopback address, behind a token.

    Attributes:
        address: Address of a running cluster; None starts one on this machine, unless ``$RAY_ADDRESS`` names one.
        cpus: CPUs of this machine that a cluster which is started here may use; None for all.
        retries: Number of times that a unit is computed again when its worker or its machine was lost.
    """

    address: str | None = None
    cpus: int | None = None
    retries: int = 3

    def run(self, store: Store, units: Sequence[Unit], compute: Compute) -> Iterator[Done]:
        """Compute the units as tasks.

        Raises:
            MissingExtraError: If Ray is not installed.
            ValueError: If a cluster has to be started, and Ray was imported before without a token.
        """
        ray = self._ray()
        kept, missing = _asked(store, units)
        yield from kept
        task = ray.remote(num_cpus=1, max_retries=self.retries)(compute_timed)
        # Once for all tasks: what a function holds, such as data, would else travel with each of them.
        held_there = ray.put(compute)
        graph, running = Graph(store, missing, whole=True), dict[Any, Unit]()
        while len(graph):
            yield from graph.settle()
            held = {unit.id for unit in running.values()}
            for unit in graph.ready():
                inputs = None if unit.id in held else store.needed(unit)
                if inputs is not None:
                    running[task.remote(unit, inputs, held_there)] = unit
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
        known = sys.modules.get("ray")
        if known is not None and known.is_initialized():
            return known
        local = self.address is None and not os.environ.get("RAY_ADDRESS")
        if local:
            _ask_for_a_token(imported=known is not None)
        try:
            ray: Any = importlib.import_module("ray")
        except ImportError:
            raise MissingExtraError("a Ray cluster", "ray", "scale") from None
        # Without an address Ray joins what another user's program has started here, and takes no number of CPUs.
        here = {"num_cpus": self.cpus, "include_dashboard": False, "_node_ip_address": "127.0.0.1"}
        options = {"address": "local", **here} if local else {"address": self.address}
        ray.init(log_to_driver=False, logging_level="ERROR", **options)
        return ray


def _ask_for_a_token(*, imported: bool) -> None:
    """Ask Ray for a token: an open cluster runs anyone's code, and Ray decides at its import whether one is open."""
    if imported and "RAY_AUTH_MODE" not in os.environ:
        raise ValueError(
            "RayTasks starts a cluster behind a token, and ray was imported before without RAY_AUTH_MODE=token: "
            "set it and RAY_AUTH_TOKEN before the import, leave the import to RayTasks, or call ray.init() first"
        )
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    if os.environ["RAY_AUTH_MODE"] == "token" and not os.environ.get("RAY_AUTH_TOKEN_PATH"):
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    # Without it Ray takes the loopback address for a mistake, and replaces it.
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
