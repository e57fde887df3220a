"""Units, their store, and those who work on them, alone and together."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from failing_calls import fail_at
from quick_units import calls, compute, echo

from ddsdk.experiments.executors import InProcess, Processes, RayTasks, SharedFolder
from ddsdk.experiments.worker import work
from ddsdk.foundation.errors import ArtifactError, MissingExtraError, StorageError
from ddsdk.foundation.files import strict_json
from ddsdk.foundation.store import Failure, Store, Timing
from ddsdk.foundation.unit import Unit, open_result, seal_result

TOOK = Timing(1.0, 0.5, "here")


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store", lease_seconds=1.0)


def chain(**options):
    first = echo("a", **options)
    second = echo("b", first, **options)
    return [first, second, echo("c", first, second, **options)]


def leases(store):
    return [p.name for p in (store.folder / "leases").iterdir() if not p.name.startswith(".ddsdk")]


def names(done):
    return sorted(d.unit.config["name"] for d in done)


def test_a_unit_is_named_by_all_that_it_says_and_by_nothing_else():
    unit = Unit("echo", {"a": 1, "b": [2.5, None]}, (0, "x"))
    same = Unit("echo", {"b": [2.5, None], "a": 1}, (0, "x"))
    assert unit.id == same.id
    others = [
        Unit("echo", {"a": 2, "b": [2.5, None]}, (0, "x")),
        Unit("other", unit.config, unit.key),
        Unit("echo", unit.config, (1, "x")),
        Unit("echo", unit.config, unit.key, (unit.id,)),
    ]
    assert len({unit.id, *(u.id for u in others)}) == 5
    back = Unit.read(unit.description)
    assert (back.id, back.key, back.needs) == (unit.id, (0, "x"), ())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "Not a word"}, "kind must be a short word"),
        ({"needs": ["../../etc"]}, "needs must hold ids"),
        ({"format": 9}, "format of a unit must be 1, got 9"),
        ({"more": 1}, "must be valid"),
        ({"key": [1.5]}, "must be valid"),
    ],
)
def test_a_description_that_is_not_sound_is_refused(change, message):
    import json

    values = {**json.loads(echo("a").description), **change}
    with pytest.raises(ArtifactError, match=message):
        Unit.read(json.dumps(values).encode())


def test_a_result_opens_as_what_it_was(store):
    unit = echo("a")
    content = seal_result(unit, b"some\nbytes\x00")
    assert open_result(unit.id, content)[1] == b"some\nbytes\x00"
    assert seal_result(unit, b"some\nbytes\x00") == content
    for position in range(len(content)):
        broken = bytearray(content)
        broken[position] ^= 4
        with pytest.raises(ArtifactError):
            open_result(unit.id, bytes(broken))
    for end in (0, 5, len(content) - 1):
        with pytest.raises(ArtifactError):
            open_result(unit.id, content[:end])
    with pytest.raises(ArtifactError, match="another unit"):
        open_result(echo("b").id, content)


def test_a_store_keeps_results_and_what_they_took(store):
    unit = echo("a")
    assert not store.has(unit.id)
    assert (store.read(unit.id), store.timing(unit.id), store.failure(unit.id)) == (None, None, None)
    store.publish(unit, b"result", TOOK)
    store.publish(unit, b"another", TOOK)
    assert (store.read(unit.id), store.timing(unit.id)) == (b"result", TOOK)
    again = Store(store.folder)
    assert again.read(unit.id) == b"result"


def test_a_damaged_result_is_set_aside_and_computed_again(store):
    units = chain()
    list(InProcess().run(store, units, compute))
    path = store.path(units[0].id)
    whole = path.read_bytes()
    path.write_bytes(whole[:-3])
    found = list(InProcess().run(store, units, compute))
    assert [d.kept for d in found] == [True, True, False]
    assert path.read_bytes() == whole
    assert path.with_suffix(".bad").exists()


def test_a_store_that_cannot_be_made_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot make folder"):
        Store(tmp_path / "file" / "store").make()
    with pytest.raises(StorageError, match="cannot make folder"):
        Store(tmp_path / "file" / "store").get_or_compute(
            echo("a"), lambda: pytest.fail("work whose result cannot be kept")
        )
    with pytest.raises(ValueError, match="lease_seconds must be positive"):
        Store(tmp_path, lease_seconds=0)


def test_what_others_left_among_the_questions_is_passed_over(store):
    unit = echo("a")
    store.request([unit])
    asked = store.folder / "asked"
    (asked / "0.json").write_bytes(b"no json")
    (asked / f"{'0' * 32}.json").write_bytes(unit.description)
    assert [u.id for u in store.requested()] == [unit.id]


def test_a_unit_sees_what_it_needs_and_is_computed_once(store, tmp_path):
    units = chain(log=str(tmp_path / "log"))
    found = list(InProcess().run(store, units, compute))
    assert names(found) == ["a", "b", "c"]
    assert all(d.failure is None and not d.kept for d in found)
    result = strict_json(store.read(units[2].id))
    assert [strict_json(of.encode())["name"] for of in result["of"]] == ["a", "b"]
    again = list(InProcess().run(store, units, compute))
    assert all(d.kept for d in again)
    assert calls(tmp_path / "log") == ["a", "b", "c"]


@pytest.mark.parametrize("executor", [InProcess(), Processes(2)], ids=["here", "processes"])
def test_an_error_costs_its_unit_and_those_that_need_it(store, executor):
    bad = echo("bad", fail=True)
    units = [bad, echo("after", bad), echo("other")]
    found = {d.unit.config["name"]: d.failure for d in executor.run(store, units, compute)}
    why = Failure("ValueError", "bad must not be")
    assert found == {"bad": why, "after": why, "other": None}
    assert store.failure(bad.id) == why
    assert store.read(bad.id) is None


def test_a_failure_is_tried_again_the_next_time(store, tmp_path):
    units = [echo("bad", fail=True, log=str(tmp_path / "log"))]
    for _ in range(2):
        (done,) = InProcess().run(store, units, compute)
        assert done.failure is not None
    assert calls(tmp_path / "log") == ["bad", "bad"]


def test_the_files_are_the_same_whoever_computed_them(tmp_path):
    units = [unit for i in range(4) for unit in chain(number=i)]
    files = []
    for i, executor in enumerate((InProcess(), Processes(3), Processes(1))):
        store = Store(tmp_path / str(i))
        assert names(executor.run(store, units, compute)) == names(InProcess().run(store, units, compute))
        files.append({p.name: p.read_bytes() for p in (store.folder / "results").iterdir()})
    assert files[0] == files[1] == files[2]
    assert len(files[0]) == 12


def test_one_lease_holds_and_lapses_when_nobody_touches_it(store):
    with store.lease("0" * 32) as mine:
        assert mine
        time.sleep(1.5)
        with store.lease("0" * 32) as second:
            assert not second, "the holder keeps it young"
    with store.lease("0" * 32) as free:
        assert free
    dead = store.folder / "leases" / ("1" * 32)
    dead.write_text("1 elsewhere")
    with store.lease("1" * 32) as fresh:
        assert not fresh, "its holder may live"
    os.utime(dead, (time.time() - 5, time.time() - 5))
    with store.lease("1" * 32) as lapsed:
        assert lapsed
    assert leases(store) == []


def test_of_many_who_want_a_lapsed_lease_one_gets_it(store):
    store.make()
    path = store.folder / "leases" / ("2" * 32)
    path.write_text("1 elsewhere")
    os.utime(path, (0, 0))
    held, barrier = [], threading.Barrier(8)

    def want():
        barrier.wait()
        with store.lease("2" * 32) as mine:
            held.append(mine)
            time.sleep(0.2)

    threads = [threading.Thread(target=want) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(held) == 1


def test_a_killed_process_costs_the_unit_that_it_held(store, tmp_path):
    log, gate = tmp_path / "log", tmp_path / "gate"
    units = [echo("held", log=str(log), wait_for=str(gate)), *(echo(f"u{i}", log=str(log)) for i in range(4))]
    running = Processes(2).run(store, units, compute)
    done = [next(running) for _ in range(4)]
    assert names(done) == ["u0", "u1", "u2", "u3"]
    (pid,) = [int(line.split()[1]) for line in log.read_text().splitlines() if line.startswith("held")]
    os.kill(pid, signal.SIGKILL)
    gate.write_text("")
    assert names(running) == ["held"]
    assert sorted(calls(log)) == ["held", "held", "u0", "u1", "u2", "u3"]


def test_a_stopped_process_is_replaced_and_ends_no_run(tmp_path):
    store, log, gate = Store(tmp_path / "store", lease_seconds=1.0), tmp_path / "log", tmp_path / "gate"
    # The second unit needs the first one: otherwise the order depends on the process id.
    first = echo("first", log=str(log))
    running = Processes(1).run(store, [first, echo("held", first, log=str(log), wait_for=str(gate))], compute)
    assert names([next(running)]) == ["first"]
    while "held" not in log.read_text():
        time.sleep(0.02)
    (pid,) = {int(line.split()[1]) for line in log.read_text().splitlines() if line.startswith("held")}
    os.kill(pid, signal.SIGSTOP)
    gate.write_text("")
    assert names(running) == ["held"]
    assert calls(log) == ["first", "held", "held"]
    assert not Path(f"/proc/{pid}").exists()


def test_a_run_that_is_left_ends_its_stopped_worker(store, tmp_path, monkeypatch):
    monkeypatch.setattr("ddsdk.experiments.executors._GRACE", 0.2)
    log, gate = tmp_path / "log", tmp_path / "gate"
    # The second unit needs the first one: otherwise the order depends on the process id.
    first = echo("first", log=str(log))
    running = Processes(1).run(store, [first, echo("held", first, log=str(log), wait_for=str(gate))], compute)
    next(running)
    pid = int(log.read_text().split()[1])
    os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    running.close()
    assert time.monotonic() - began < 5
    assert not Path(f"/proc/{pid}").exists()


def test_a_unit_that_kills_its_workers_is_given_up(store):
    units = [echo("deadly", dies=True), echo("other")]
    found = {d.unit.config["name"]: d.failure for d in Processes(1).run(store, units, compute)}
    assert found["other"] is None
    assert found["deadly"] == Failure("RuntimeError", "3 workers were killed during this unit, exit code -9")


def test_workers_that_cannot_work_at_all_end_the_run(store):
    """Data that is not there, or a full disk, is no fault of a unit: it is said, and not tried for ever."""
    with pytest.raises(RuntimeError, match="3 workers ended with exit code 1; see their messages"):
        list(Processes(2).run(store, [echo("a", missing=True), echo("b", missing=True)], compute))
    assert store.failure(echo("a", missing=True).id) is None
    assert leases(store) == []


DRIVER = """
import sys
from quick_units import compute, echo
from ddsdk.experiments.executors import Processes
from ddsdk.foundation.store import Store
if __name__ == "__main__":
    folder, log, gate = sys.argv[1:]
    units = [echo(f"u{i}", log=log) for i in range(3)]
    units.append(echo("held", *units, log=log, wait_for=gate))
    for done in Processes(2).run(Store(folder, lease_seconds=1.0), units, compute):
        print(done.unit.config["name"], flush=True)
"""


def test_a_killed_driver_costs_what_was_running(tmp_path):
    store, log, gate = (str(tmp_path / name) for name in ("store", "log", "gate"))
    script = tmp_path / "driver.py"
    script.write_text(DRIVER)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(script), store, log, gate]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as driver:
        while "held" not in (Path(log).read_text() if Path(log).exists() else ""):
            time.sleep(0.05)
        driver.kill()
    orphan = int(next(line for line in Path(log).read_text().splitlines() if "held" in line).split()[1])
    os.kill(orphan, signal.SIGKILL)
    Path(gate).write_text("")
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True, timeout=120)
    assert sorted(done.stdout.split()) == ["held", "u0", "u1", "u2"]
    assert sorted(calls(log)) == ["held", "held", "u0", "u1", "u2"]


def test_workers_of_a_killed_driver_end_with_their_unit(tmp_path):
    store, log, gate = (str(tmp_path / name) for name in ("store", "log", "gate"))
    script = tmp_path / "driver.py"
    script.write_text(DRIVER)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, str(script), store, log, gate], env=env) as driver:
        while "held" not in (Path(log).read_text() if Path(log).exists() else ""):
            time.sleep(0.05)
        driver.kill()
    pids = {int(line.split()[1]) for line in Path(log).read_text().splitlines()}
    Path(gate).write_text("")
    end = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < end:
        time.sleep(0.05)
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def test_whoever_shares_the_store_does_the_work(store, tmp_path):
    units = chain(log=str(tmp_path / "log"))
    found = []
    waiting = threading.Thread(target=lambda: found.extend(SharedFolder().run(store, units, compute)), daemon=True)
    waiting.start()
    other = Store(store.folder, lease_seconds=1.0)
    while not waiting.is_alive() or len(list((store.folder / "asked").glob("*.json"))) < 3:
        time.sleep(0.01)
    assert names(work(other, compute)) == ["a", "b", "c"]
    waiting.join(timeout=30)
    assert names(found) == ["a", "b", "c"]


def test_a_worker_leaves_alone_what_it_must_not_compute(store):
    store.request([echo("old"), echo("new")])
    found = list(work(store, compute, wants=lambda unit: unit.config["name"] == "new"))
    assert names(found) == ["new"]
    assert not store.has(echo("old").id)


def test_a_need_that_nobody_asked_for_is_an_error_and_no_endless_wait(store):
    (done,) = InProcess().run(store, [echo("b", echo("a"))], compute)
    assert done.failure is not None
    assert "the result of the needed unit" in done.failure.message


def test_ray_is_asked_for_by_name_where_it_is_missing(store, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'ddsdk\[scale\]'"):
        list(RayTasks().run(store, [echo("a")], compute))


def test_processes_are_counted():
    with pytest.raises(ValueError, match="count must be at least 1, got 0"):
        Processes(0)


@pytest.mark.parametrize("name", ["write", "fsync", "replace"])
def test_the_nth_write_fails_and_nothing_half_written_stays(store, monkeypatch, name):
    """Whichever call fails, there is no result or a whole one, and the next attempt goes through."""
    unit, n, failed = echo("a"), 0, 0
    while True:
        n += 1
        fresh = Store(store.folder.parent / f"{name}-{n}", lease_seconds=1.0)
        with monkeypatch.context() as patch:
            asked = fail_at(patch, name, n, OSError(28, "No space left on device"))
            try:
                done = list(InProcess().run(fresh, [unit], compute))
            except StorageError:
                failed += 1
                assert fresh.read(unit.id) in (None, b'{"name":"a","of":[]}')
                done = list(InProcess().run(fresh, [unit], compute))
        assert [d.failure for d in done] == [None]
        assert fresh.read(unit.id) == b'{"name":"a","of":[]}'
        assert leases(fresh) == []
        for room in ("asked", "results", "times"):
            assert not [p for p in (fresh.folder / room).iterdir() if p.name.startswith(".ddsdk")]
        if len(asked) < n:
            break
    assert failed >= 2
