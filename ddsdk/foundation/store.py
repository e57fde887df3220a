"""A shared folder of work: requested units, leases on units in progress, and results.

Any number of processes on any number of machines can share one folder. A result file is always complete. A lease marks
a unit on which a process is working; it expires when the process stops renewing it. If two processes compute the same
unit, no harm is done, because their result files are identical.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar, final

from ddsdk.foundation.errors import ArtifactError, FolderBusyError, require_positive
from ddsdk.foundation.files import (
    file_system_time,
    inner_folder,
    lock,
    make_folder,
    open_unblocked,
    read_json,
    readable_json,
    write_atomic,
)
from ddsdk.foundation.in_place import create_file
from ddsdk.foundation.notes import note
from ddsdk.foundation.text import clean
from ddsdk.foundation.unit import Unit, open_result, seal_result

T = TypeVar("T")

LEASE_SECONDS = 60.0
_SUBFOLDERS = ("asked", "results", "leases", "failed", "times")
_MESSAGE_LIMIT = 2000


@dataclass(frozen=True)
class Timing:
    """Computation time of a result. It is stored beside the result, which is the same on all machines.

    Attributes:
        seconds: Wall-clock time in seconds.
        cpu_seconds: CPU time of the process in seconds.
        host: Name of the machine.
    """

    seconds: float
    cpu_seconds: float
    host: str

    @classmethod
    def since(cls, wall: float, cpu: float) -> Timing:
        """Return the time since two earlier values of `time.perf_counter` and `time.process_time`, on this host."""
        seconds, cpu_seconds = time.perf_counter() - wall, time.process_time() - cpu
        return cls(round(seconds, 3), round(cpu_seconds, 3), socket.gethostname())


@dataclass(frozen=True)
class Failure:
    """Error that ended the computation of a unit.

    Attributes:
        error: Name of the exception's class.
        message: Message of the exception, in one line.
    """

    error: str
    message: str


@final
class Store:
    """A shared folder of units of work and their results.

    Args:
        folder: Folder of the store, made with the first write. Results with a correct hash are trusted, so write
            access should be limited to trusted users.
        lease_seconds: Seconds after which a lease that is not renewed expires; equal for all processes of the folder.

    Examples:
        >>> store, unit = Store("work"), Unit("expert", {"seed": 0})
        >>> store.get_or_compute(unit, lambda: b"weights")
        (b'weights', False)
        >>> store.get_or_compute(unit, lambda: b"weights")
        (b'weights', True)
    """

    def __init__(self, folder: str | os.PathLike[str], *, lease_seconds: float = LEASE_SECONDS) -> None:
        require_positive("lease_seconds", lease_seconds)
        self.folder = Path(folder)
        self.lease_seconds = lease_seconds

    def make(self) -> None:
        """Create the folder if it does not exist, so that a folder that is not writable is noticed before any work.

        A folder that cannot be made, and a link among its inner folders, give a `StorageError`.
        """
        make_folder(self.folder)
        for name in _SUBFOLDERS:
            make_folder(inner_folder(self.folder, name))

    def request(self, units: Iterable[Unit]) -> None:
        """Request units, so that workers compute them. The record of an earlier failure is removed."""
        self.make()
        for unit in units:
            self._failed(unit.id).unlink(missing_ok=True)
            path = self.folder / "asked" / f"{unit.id}.json"
            if not path.is_file():
                write_atomic(path, unit.description)

    def requested(self) -> list[Unit]:
        """Return the requested units, sorted by id; unreadable descriptions are skipped."""
        units = []
        for path in sorted((self.folder / "asked").glob("*.json")):
            with contextlib.suppress(ArtifactError, OSError):
                unit = Unit.read(_content(path))
                if unit.id == path.stem:
                    units.append(unit)
        return units

    def has(self, unit_id: str) -> bool:
        """Return whether a unit has a result."""
        return self.path(unit_id).is_file()

    def finished(self) -> set[str]:
        """Return the ids of all units that have a result."""
        return _stems(self.folder / "results", ".unit")

    def failed(self) -> set[str]:
        """Return the ids of all units that have failed."""
        return _stems(self.folder / "failed", ".json")

    def path(self, unit_id: str) -> Path:
        """Return the path of the result file of a unit, whether or not it exists."""
        return self.folder / "results" / f"{unit_id}.unit"

    def read(self, unit_id: str) -> bytes | None:
        """Return the result of a unit, or None if it has none. A damaged file is renamed to ``.bad`` and ignored."""
        path = self.path(unit_id)
        try:
            return open_result(unit_id, _content(path))[1]
        except (FileNotFoundError, NotADirectoryError):
            return None
        except ArtifactError:
            with contextlib.suppress(OSError):
                path.replace(path.with_suffix(".bad"))
                note(f"{str(path)!r} is damaged and now ends in .bad; its result is computed again")
            return None

    def needed(self, unit: Unit) -> dict[str, bytes] | None:
        """Return the input results of a unit by id, or None if one of them is missing."""
        inputs = {need: self.read(need) for need in unit.needs}
        finished = {need: result for need, result in inputs.items() if result is not None}
        return finished if len(finished) == len(inputs) else None

    def publish(self, unit: Unit, result: bytes, timing: Timing, *, replace: bool = False) -> None:
        """Write a result and its time. An existing result is not overwritten unless `replace` is True."""
        if replace or not self.has(unit.id):
            self.make()
            write_atomic(self.folder / "times" / f"{unit.id}.json", readable_json(asdict(timing)))
            write_atomic(self.path(unit.id), seal_result(unit, result))

    def get_or_compute(self, unit: Unit, compute: Callable[[], bytes]) -> tuple[bytes, bool]:
        """Return the stored result of a unit, or compute and store it.

        Args:
            unit: Unit without inputs, that is with empty `needs`.
            compute: Function that computes the result.

        Returns:
            Pair of the result, and whether it was stored before.
        """
        stored = self.read(unit.id)
        if stored is not None:
            return stored, True
        self.make()
        wall, cpu = time.perf_counter(), time.process_time()
        result = compute()
        self.publish(unit, result, Timing.since(wall, cpu))
        return result, False

    def results(self, kind: str) -> Iterator[tuple[Unit, bytes]]:
        """Yield all units of a kind that have a result, with the result, sorted by id; damaged files are skipped."""
        for path in sorted((self.folder / "results").glob("*.unit")):
            with contextlib.suppress(ArtifactError, OSError):
                unit, result = open_result(path.stem, _content(path))
                if unit.kind == kind:
                    yield unit, result

    def timing(self, unit_id: str) -> Timing | None:
        """Return the computation time of a result, or None if it is unknown."""
        return _read(self.folder / "times" / f"{unit_id}.json", Timing)

    def fail(self, unit: Unit, error: Exception) -> None:
        """Record that the computation of a unit failed, for all processes that wait for its result."""
        self.make()
        failure = Failure(type(error).__name__, clean(str(error), _MESSAGE_LIMIT))
        write_atomic(self._failed(unit.id), readable_json(asdict(failure)))

    def failure(self, unit_id: str) -> Failure | None:
        """Return the recorded failure of a unit, or None if it has a result or no recorded failure."""
        return None if self.has(unit_id) else _read(self._failed(unit_id), Failure)

    @contextlib.contextmanager
    def lease(self, unit_id: str) -> Iterator[bool]:
        """Yield whether this process holds the lease on a unit during a block; a thread renews the lease meanwhile."""
        self.make()
        path = self.folder / "leases" / unit_id
        if not self._take(path):
            yield False
            return
        done = threading.Event()
        renewal = threading.Thread(target=self._renew, args=(path, done), daemon=True)
        renewal.start()
        try:
            yield True
        finally:
            done.set()
            renewal.join()
            path.unlink(missing_ok=True)

    def release(self, pid: int) -> list[str]:
        """Remove the leases of a dead process of this machine.

        Args:
            pid: Process id of the dead process.

        Returns:
            Ids of the units that the process had leased.
        """
        unit_ids, holder = [], f"{pid} {socket.gethostname()}".encode()
        for path in (self.folder / "leases").glob("[0-9a-f]*"):
            with contextlib.suppress(OSError):
                if _content(path) == holder:
                    path.unlink()
                    unit_ids.append(path.name)
        return unit_ids

    def _take(self, path: Path) -> bool:
        for _ in range(2):
            if create_file(path, f"{os.getpid()} {socket.gethostname()}".encode()):
                return True
            if not self._expired(path) or not self._remove_expired(path):
                return False
        return False

    def _remove_expired(self, path: Path) -> bool:
        # Under a lock: otherwise a second process could remove the new lease of the first one.
        try:
            with lock(path.parent):
                expired = self._expired(path)
                if expired:
                    path.unlink(missing_ok=True)
                return expired
        except FolderBusyError:
            return False

    def _expired(self, path: Path) -> bool:
        try:
            return file_system_time(path.parent) - path.lstat().st_mtime > self.lease_seconds
        except FileNotFoundError:
            return True

    def _renew(self, path: Path, done: threading.Event) -> None:
        while not done.wait(self.lease_seconds / 5):
            with contextlib.suppress(OSError):
                os.utime(path, follow_symlinks=os.utime not in os.supports_follow_symlinks)

    def _failed(self, unit_id: str) -> Path:
        return self.folder / "failed" / f"{unit_id}.json"


def _read(path: Path, kind: type[T]) -> T | None:
    """Return the record in a small file, or None if the file is missing or damaged."""
    try:
        return read_json(_content(path), kind, "unit", "the file must hold a record")
    except (OSError, ArtifactError):
        return None


def _content(path: Path) -> bytes:
    """Return the bytes of a file; a pipe in its place counts as empty, where reading it would wait for a writer."""
    with open(path, "rb", opener=open_unblocked) as file:
        return file.read()


def _stems(folder: Path, suffix: str) -> set[str]:
    # Only names are read, because this runs after each of possibly thousands of units.
    return set() if not folder.is_dir() else {path.stem for path in folder.iterdir() if path.suffix == suffix}
