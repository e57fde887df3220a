"""Atomic files, the folder lock and strict JSON, with faults at every call."""

import os
import signal
import stat
import subprocess
import sys
import threading
import time

import pytest
from failing_calls import fail_at

from ddsdk.foundation.errors import FolderBusyError, StorageError
from ddsdk.foundation.files import canonical_json, lock, remove_stale_files, staged_folder, strict_json, write_atomic


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_writes_and_replaces(tmp_path):
    path = tmp_path / "a.bin"
    write_atomic(path, b"one")
    write_atomic(path, b"two" * 1000)
    assert path.read_bytes() == b"two" * 1000
    assert names(tmp_path) == ["a.bin"]


def test_honours_the_umask(tmp_path):
    old = os.umask(0o027)
    try:
        write_atomic(tmp_path / "a", b"")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


def test_replaces_a_link_and_leaves_its_target(tmp_path):
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_bytes(b"precious")
    link.symlink_to(target)
    write_atomic(link, b"new")
    assert target.read_bytes() == b"precious"
    assert link.read_bytes() == b"new"
    assert not link.is_symlink()


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_refuses_what_is_not_a_file(tmp_path, kind):
    path = tmp_path / "x"
    path.mkdir() if kind == "folder" else os.mkfifo(path)
    with pytest.raises(StorageError, match="not a regular file"):
        write_atomic(path, b"data")
    assert names(tmp_path) == ["x"]


def test_missing_folder_is_a_storage_error(tmp_path):
    with pytest.raises(StorageError, match="cannot write"):
        write_atomic(tmp_path / "no" / "a", b"data")


@pytest.mark.parametrize("call", ["open", "write", "fsync", "replace", "close"])
@pytest.mark.parametrize("n", [1, 2])
def test_fault_at_every_call_leaves_old_or_new(tmp_path, monkeypatch, call, n):
    path = tmp_path / "a"
    path.write_bytes(b"old")
    calls = fail_at(monkeypatch, call, n)
    try:
        write_atomic(path, b"new!")
        failed = False
    except StorageError as error:
        failed = True
        assert "4 bytes needed" in str(error)
        assert "bytes free" in str(error)
        stands = "old file is unchanged" in str(error)
        assert path.read_bytes() == (b"old" if stands else b"new!")
    monkeypatch.undo()
    assert failed == (len(calls) >= n)
    assert names(tmp_path) == ["a"]


def test_short_writes_are_continued(tmp_path, monkeypatch):
    real = os.write
    monkeypatch.setattr(os, "write", lambda handle, data: real(handle, bytes(data)[:3]))
    write_atomic(tmp_path / "a", b"0123456789")
    monkeypatch.undo()
    assert (tmp_path / "a").read_bytes() == b"0123456789"


FULL = """
import resource, signal, sys
from ddsdk.foundation.errors import StorageError
from ddsdk.foundation.files import write_atomic
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_atomic(sys.argv[1], b"x" * 5000)
except StorageError as error:
    print(error)
"""


def test_full_disk_keeps_the_old_file(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"old")
    done = subprocess.run([sys.executable, "-c", FULL, str(path)], capture_output=True, text=True, check=True)
    assert "5000 bytes needed" in done.stdout
    assert "old file is unchanged" in done.stdout
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a"]


def test_sweep_takes_only_our_stale_names(tmp_path):
    ours, young = tmp_path / ".ddsdk-0123456789abcdef.tmp", tmp_path / ".ddsdk-aaaaaaaaaaaaaaaa.tmp"
    foreign = [tmp_path / ".ddsdk-notes.tmp", tmp_path / ".ddsdk-0123456789ABCDEF.tmp", tmp_path / "b.tmp"]
    for path in (ours, young, *foreign):
        path.write_bytes(b"x")
    folder = tmp_path / ".ddsdk-bbbbbbbbbbbbbbbb.tmp"
    (folder / "inner").mkdir(parents=True)
    for path in (ours, folder / "inner", folder, *foreign):
        os.utime(path, (1, 1))
    assert remove_stale_files(tmp_path) == [ours.name, folder.name]
    assert young.exists()
    assert all(path.exists() for path in foreign)
    assert remove_stale_files(tmp_path, older_than=0) == [young.name]


def test_killed_writer_leaves_what_sweep_removes(tmp_path):
    code = (
        "import os, sys; os.fsync = lambda h: os.kill(os.getpid(), 9)\n"
        "from ddsdk.foundation.files import write_atomic; write_atomic(sys.argv[1], b'new')"
    )
    path = tmp_path / "a"
    path.write_bytes(b"old")
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"
    assert len(names(tmp_path)) == 2
    remove_stale_files(tmp_path, older_than=0)
    assert names(tmp_path) == ["a"]


HOLD = """
import sys, time
from ddsdk.foundation.files import lock
with lock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_second_process_is_refused_with_the_owner(tmp_path):
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout.readline().strip() == "held"
        with pytest.raises(FolderBusyError, match=rf"{tmp_path}.*process {child.pid}\b"), lock(tmp_path):
            pass
    finally:
        child.communicate()
    with lock(tmp_path):
        pass


def test_killed_owner_frees_the_folder(tmp_path):
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout.readline().strip() == "held"
    child.kill()
    child.wait()
    child.stdin.close()
    child.stdout.close()
    with lock(tmp_path):
        pass


def test_same_thread_may_enter_again_and_another_may_not(tmp_path):
    seen = []

    def other():
        try:
            with lock(tmp_path):
                seen.append("entered")
        except FolderBusyError:
            seen.append("refused")

    with lock(tmp_path):
        with lock(tmp_path):
            pass
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert seen == ["refused"]
    other()
    assert seen == ["refused", "entered"]


def test_lock_of_a_missing_folder(tmp_path):
    began = time.monotonic()
    with pytest.raises(StorageError, match="cannot lock"), lock(tmp_path / "no"):
        pass
    assert time.monotonic() - began < 5


def test_staged_folder_appears_whole_or_not_at_all(tmp_path):
    with staged_folder(tmp_path / "new") as staged:
        (staged / "a").write_bytes(b"1")
        assert not (tmp_path / "new").exists()
    assert names(tmp_path / "new") == ["a"]
    with pytest.raises(RuntimeError, match="stop"), staged_folder(tmp_path / "other") as staged:
        (staged / "a").write_bytes(b"1")
        raise RuntimeError("stop")
    with pytest.raises(StorageError, match="holds files already"), staged_folder(tmp_path / "new"):
        pass
    assert names(tmp_path) == ["new"]


def test_canonical_json_has_one_spelling():
    assert canonical_json({"b": [1, 2.5, None], "a": "é"}) == b'{"a":"\\u00e9","b":[1,2.5,null]}'
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical_json({"a": float("nan")})


@pytest.mark.parametrize(
    "text",
    [b'{"a":1,"a":2}', b"[NaN]", b"[-Infinity]", b"{", b"", b"\xff", b"[" * 100_000, b"[" * 100_000 + b"]" * 100_000],
)
def test_strict_json_refuses(text):
    with pytest.raises(ValueError):
        strict_json(text)


def test_the_first_write_of_a_process_sweeps_its_folder(tmp_path):
    stale = tmp_path / ".ddsdk-0123456789abcdef.tmp"
    stale.write_bytes(b"x")
    os.utime(stale, (1, 1))
    write_atomic(tmp_path / "ledger.json", b"{}")
    assert names(tmp_path) == ["ledger.json"]


def test_a_wrong_local_clock_removes_no_young_file(tmp_path, monkeypatch):
    young = tmp_path / ".ddsdk-0123456789abcdef.tmp"
    young.write_bytes(b"x")
    late = time.time() + 10 * 3600
    monkeypatch.setattr(time, "time", lambda: late)
    assert remove_stale_files(tmp_path) == []
    assert names(tmp_path) == [young.name]


WRITING = """
import os, sys
real = os.fsync
def wait(handle):
    print("writing", flush=True)
    sys.stdin.read()
    real(handle)
os.fsync = wait
from ddsdk.foundation.files import write_atomic
write_atomic(sys.argv[1], b"new")
"""


def test_the_file_of_a_living_writer_stays(tmp_path):
    path = tmp_path / "a"
    child = subprocess.Popen(
        [sys.executable, "-c", WRITING, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout.readline().strip() == "writing"
        (temporary,) = tmp_path.iterdir()
        os.utime(temporary, (1, 1))
        assert remove_stale_files(tmp_path, older_than=0) == []
    finally:
        child.communicate()
    assert child.returncode == 0
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["a"]
