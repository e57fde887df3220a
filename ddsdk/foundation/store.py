"""The folder of units: wanted units, leases of those under way, and results.

Any number of processes on any number of machines share one folder. A result appears whole under its name or not at
all. A lease says that somebody works on a unit; it lapses when its holder stops touching it. That two may once compute
the same unit does no harm: their files are the same.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar, final

from ddsdk.foundation.errors import ArtifactError, FolderBusyError, StorageError, require_rate
from ddsdk.foundation.files import lock, read_json, readable_json, sweep, write_atomic
from ddsdk.foundation.text import clean
from ddsdk.foundation.unit import Unit, open_result, seal_result

T = TypeVar("T")

LEASE_SECONDS = 60.0
_ROOMS = ("asked", "results", "leases", "failed", "times")
_LINE = 2000


@dataclass(frozen=True)
class Timing:
    """Time of a result. It is no part of the result, which is the same everywhere.

    Attributes:
        seconds: Wall-clock time.
        cpu_seconds: CPU time of the process.
        host: Name of the machine.
    """

    seconds: float
    cpu_seconds: float
    host: str

    @classmethod
    def since(cls, wall: float, cpu: float) -> Timing:
        """Return the time since two readings, of `time.perf_counter` and of `time.process_time`, on this host."""
        seconds, cpu_seconds = time.perf_counter() - wall, time.process_time() - cpu
        return cls(round(seconds, 3), round(cpu_seconds, 3), socket.gethostname())


@dataclass(frozen=True)
class Failure:
    """Reason why there is no result: name and message of the error."""

    error: str
    message: str


@final
class Store:
    """A folder of units.

    Args:
        folder: Folder, made with the first write. Its files are believed where their hashes fit, so it should be yours.
        lease_seconds: Time without a touch after which a lease lapses, the same for all who share the folder.
    """

    def __init__(self, folder: str | os.PathLike[str], *, lease_seconds: float = LEASE_SECONDS) -> None:
        require_rate("lease_seconds", lease_seconds)
        self.folder = Path(folder)
        self.lease_seconds = lease_seconds
        for room in filter(Path.is_dir, (self.folder / name for name in _ROOMS)):
            sweep(room)

    def make(self) -> None:
        """Make the folder where it does not exist, so that work whose result could not be kept is not begun."""
        try:
            for room in _ROOMS:
                (self.folder / room).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"cannot make store {str(self.folder)!r}: {error.strerror or error}") from error

    def ask(self, units: Iterable[Unit]) -> None:
        """Put units where workers look for them. A failure of an earlier time is forgotten."""
        self.make()
        for unit in units:
            self._failed(unit.id).unlink(missing_ok=True)
            path = self.folder / "asked" / f"{unit.id}.json"
            if not path.is_file():
                write_atomic(path, unit.description)

    def asked(self) -> list[Unit]:
        """Return the wanted units by id; a description that cannot be read is passed over."""
        found = []
        for path in sorted((self.folder / "asked").glob("*.json")):
            with contextlib.suppress(ArtifactError, OSError):
                unit = Unit.read(path.read_bytes())
                if unit.id == path.stem:
                    found.append(unit)
        return found

    def has(self, unit_id: str) -> bool:
        """Tell whether there is a result."""
        return self.path(unit_id).is_file()

    def finished(self) -> set[str]:
        """Return the ids of all units that have a result."""
        return _stems(self.folder / "results", ".unit")

    def failed(self) -> set[str]:
        """Return the ids of all units that have failed."""
        return _stems(self.folder / "failed", ".json")

    def path(self, unit_id: str) -> Path:
        """Return the path of the result of a unit."""
        return self.folder / "results" / f"{unit_id}.unit"

    def read(self, unit_id: str) -> bytes | None:
        """Return a result, or None where there is none. A damaged file is renamed to ``.bad`` and counts as none."""
        path = self.path(unit_id)
        try:
            return open_result(unit_id, path.read_bytes())[1]
        except (FileNotFoundError, NotADirectoryError):
            return None
        except ArtifactError:
            with contextlib.suppress(OSError):
                path.replace(path.with_suffix(".bad"))
            return None

    def needed(self, unit: Unit) -> dict[str, bytes] | None:
        """Return the results that a unit needs, by id; None while one is missing."""
        found = {need: self.read(need) for need in unit.needs}
        whole = {need: result for need, result in found.items() if result is not None}
        return whole if len(whole) == len(found) else None

    def publish(self, unit: Unit, result: bytes, timing: Timing, *, replace: bool = False) -> None:
        """Write a result and its time. A result that is there already stays, unless `replace` is true."""
        if replace or not self.has(unit.id):
            self.make()
            write_atomic(self.folder / "times" / f"{unit.id}.json", readable_json(asdict(timing)))
            write_atomic(self.path(unit.id), seal_result(unit, result))

    def once(self, unit: Unit, compute: Callable[[], bytes]) -> tuple[bytes, bool]:
        """Return the result of a unit without needs, and whether it was there; compute and keep it where it was not."""
        kept = self.read(unit.id)
        if kept is not None:
            return kept, True
        self.make()
        wall, cpu = time.perf_counter(), time.process_time()
        result = compute()
        self.publish(unit, result, Timing.since(wall, cpu))
        return result, False

    def results(self, kind: str) -> Iterator[tuple[Unit, bytes]]:
        """Give every unit of a kind that has a result, with the result, by id; damaged files are passed over."""
        for path in sorted((self.folder / "results").glob("*.unit")):
            with contextlib.suppress(ArtifactError, OSError):
                unit, result = open_result(path.stem, path.read_bytes())
                if unit.kind == kind:
                    yield unit, result

    def timing(self, unit_id: str) -> Timing | None:
        """Return the time of a result, or None where it is unknown."""
        return _read(self.folder / "times" / f"{unit_id}.json", Timing)

    def fail(self, unit: Unit, error: Exception) -> None:
        """Note the reason why a unit has no result, for all who wait for it."""
        self.make()
        failure = Failure(type(error).__name__, clean(str(error), _LINE))
        write_atomic(self._failed(unit.id), readable_json(asdict(failure)))

    def failure(self, unit_id: str) -> Failure | None:
        """Return the reason why there is no result, or None where there is a result, or no reason."""
        return None if self.has(unit_id) else _read(self._failed(unit_id), Failure)

    @contextlib.contextmanager
    def lease(self, unit_id: str) -> Iterator[bool]:
        """Try to hold a unit for the length of a block.

        Yields:
            Whether it is held. A thread keeps the lease young meanwhile.
        """
        self.make()
        path = self.folder / "leases" / unit_id
        if not self._take(path):
            yield False
            return
        done = threading.Event()
        pulse = threading.Thread(target=self._touch, args=(path, done), daemon=True)
        pulse.start()
        try:
            yield True
        finally:
            done.set()
            pulse.join()
            path.unlink(missing_ok=True)

    def release(self, pid: int) -> list[str]:
        """Drop the leases of a process of this machine that is dead; return the units that it held."""
        found, mine = [], f"{pid} {socket.gethostname()}"
        for path in (self.folder / "leases").glob("[0-9a-f]*"):
            with contextlib.suppress(OSError):
                if path.read_text() == mine:
                    path.unlink()
                    found.append(path.name)
        return found

    def _take(self, path: Path) -> bool:
        for _ in range(2):
            try:
                handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            except FileExistsError:
                if not self._lapsed(path) or not self._bury(path):
                    return False
                continue
            except OSError as error:
                raise StorageError(f"cannot lease {path.name}: {error.strerror or error}") from error
            with os.fdopen(handle, "w") as file:
                file.write(f"{os.getpid()} {socket.gethostname()}")
            return True
        return False

    def _bury(self, path: Path) -> bool:
        """Remove a lapsed lease; tell whether the way is free. One at a time, or a new lease would be taken for it."""
        try:
            with lock(path.parent):
                lapsed = self._lapsed(path)
                if lapsed:
                    path.unlink(missing_ok=True)
                return lapsed
        except FolderBusyError:
            return False

    def _lapsed(self, path: Path) -> bool:
        """Tell whether a lease is older than it may be, by the clock of the machine that holds the folder."""
        probe = path.with_name(f".clock-{secrets.token_hex(8)}")
        try:
            probe.touch()
            return probe.stat().st_mtime - path.stat().st_mtime > self.lease_seconds
        except FileNotFoundError:
            return True
        finally:
            probe.unlink(missing_ok=True)

    def _touch(self, path: Path, done: threading.Event) -> None:
        while not done.wait(self.lease_seconds / 5):
            with contextlib.suppress(OSError):
                os.utime(path)

    def _failed(self, unit_id: str) -> Path:
        return self.folder / "failed" / f"{unit_id}.json"


def _read(path: Path, kind: type[T]) -> T | None:
    """Return the record in a small file, or None where there is none."""
    try:
        return read_json(path.read_bytes(), kind, "unit", "the file must hold a record")
    except (OSError, ArtifactError):
        return None


def _stems(folder: Path, suffix: str) -> set[str]:
    # Names alone: a table of thousands of units is looked through after each of them.
    return set() if not folder.is_dir() else {path.stem for path in folder.iterdir() if path.suffix == suffix}
