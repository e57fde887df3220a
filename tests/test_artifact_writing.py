"""Writing a set: crashes at every call, full disks, busy folders, files of others."""

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from artefact_sets import FILES, make_set, same, visible

from ddsdk.artefact.distilled import Distilled
from ddsdk.artefact.folder import read_artifact, read_manifest_summary, write_artifact
from ddsdk.artefact.manifest import build_manifest
from ddsdk.foundation.errors import ArtifactError, FolderBusyError, StorageError
from ddsdk.foundation.files import lock


def opened_id(folder):
    try:
        return Distilled.load(folder).content_id
    except ArtifactError as error:
        assert error.reason == "missing"
        return None


def run_with_fault(monkeypatch, name, n, kind, action):
    """Run `action` with the n-th call of os.<name> failing; tell how many calls there were."""
    real, calls = getattr(os, name), []

    def call(*args, **kwargs):
        calls.append(args)
        if len(calls) == n:
            raise kind
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(os, name, call)
        try:
            action()
            failed = False
        except (StorageError, KeyboardInterrupt):
            failed = True
    return len(calls), failed


@pytest.mark.parametrize("name", ["write", "fsync", "replace"])
@pytest.mark.parametrize("kind", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("fresh", [True, False])
def test_fault_at_every_call_shows_old_or_new(tmp_path, monkeypatch, name, kind, fresh):
    old, new = make_set(seed=0), make_set(seed=1)
    for n in range(1, 100):
        folder = tmp_path / f"{n}"
        if not fresh:
            old.save(folder)
        calls, failed = run_with_fault(monkeypatch, name, n, kind, lambda where=folder: new.save(where))
        assert failed == (calls >= n)
        shown = opened_id(folder)
        assert shown in ({None, new.content_id} if fresh else {old.content_id, new.content_id})
        assert not [p for p in folder.iterdir() if p.name.endswith(".tmp")]
        if not failed:
            assert shown == new.content_id
            break
        new.save(folder)
        assert opened_id(folder) == new.content_id
        assert visible(folder) == sorted(FILES)
    else:
        pytest.fail("never ran through")
    assert n > 4


DIE = """
import os, sys
sys.path.insert(0, sys.argv[3])
from artefact_sets import make_set
distilled, calls = make_set(seed=1), 0
distilled.manifest
def dying(real):
    def call(*a, **k):
        global calls
        calls += 1
        if calls == int(sys.argv[2]):
            os._exit(9)
        return real(*a, **k)
    return call
for name in ("write", "fsync", "replace"):
    setattr(os, name, dying(getattr(os, name)))
count = int(sys.argv[2])
last = int(sys.argv[4])
for n in range(count, last):
    pid = os.fork()
    if pid == 0:
        sys.argv[2] = str(n)
        distilled.save(sys.argv[1] + "/" + str(n))
        os._exit(0)
    os.waitpid(pid, 0)
"""


@pytest.mark.slow
def test_killed_at_every_call_shows_old_or_new(tmp_path):
    old, new, last = make_set(seed=0), make_set(seed=1), 30
    for n in range(1, last):
        old.save(tmp_path / f"{n}")
    here = str(Path(__file__).parent)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", DIE, str(tmp_path), "1", here, f"{last}"], check=True, env=environment)
    shown = []
    for n in range(1, last):
        shown.append(opened_id(tmp_path / f"{n}") == new.content_id)
        new.save(tmp_path / f"{n}")
        assert opened_id(tmp_path / f"{n}") == new.content_id
        assert visible(tmp_path / f"{n}") == sorted([*FILES])
    assert shown == sorted(shown)
    assert not shown[0]
    assert shown[-1]


FULL = """
import resource, signal, sys
sys.path.insert(0, sys.argv[2])
from artefact_sets import make_set
from ddsdk.foundation.errors import StorageError
distilled = make_set(seed=1, shape=(3, 16, 16))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
try:
    distilled.save(sys.argv[1])
except StorageError as error:
    print(error)
"""


def test_full_disk_keeps_the_old_set(tmp_path):
    old = make_set(seed=0)
    old.save(tmp_path)
    command = [sys.executable, "-c", FULL, str(tmp_path), str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "bytes needed" in done.stdout
    same(Distilled.load(tmp_path), old)
    assert visible(tmp_path) == sorted(FILES)


def test_a_busy_folder_is_refused_at_once(tmp_path):
    old = make_set()
    old.save(tmp_path)
    code = (
        "import sys\nfrom ddsdk.foundation.files import lock\n"
        "with lock(sys.argv[1]):\n print('held', flush=True)\n sys.stdin.read()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout.readline().strip() == "held"
        with pytest.raises(FolderBusyError, match=str(child.pid)):
            make_set(seed=1).save(tmp_path)
        same(Distilled.load(tmp_path), old)
    finally:
        child.communicate()
    with lock(tmp_path):
        make_set(seed=1).save(tmp_path)


def save_often(folder, seed, count):
    distilled = make_set(seed=seed)
    for _ in range(count):
        try:
            distilled.save(folder)
        except FolderBusyError:
            continue


@pytest.mark.slow
def test_two_writers_and_a_reader_on_one_folder(tmp_path):
    good = {make_set(seed=s).content_id for s in (0, 1)}
    make_set(seed=0).save(tmp_path)
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=save_often, args=(tmp_path, seed, 30)) for seed in (0, 1)]
    for writer in writers:
        writer.start()
    seen = set()
    while any(writer.is_alive() for writer in writers):
        seen.add(read_artifact(tmp_path).manifest.id)
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert seen <= good
    assert visible(tmp_path) == sorted(FILES)
    assert read_artifact(tmp_path).manifest.id in good


def test_files_of_others_are_not_overwritten(tmp_path):
    (tmp_path / "README.md").write_text("# my project\n")
    with pytest.raises(StorageError, match="that ddsdk has not written"):
        make_set().save(tmp_path)
    assert (tmp_path / "README.md").read_text() == "# my project\n"
    assert visible(tmp_path) == ["README.md"]


def test_damaged_sets_may_be_replaced(tmp_path):
    make_set().save(tmp_path)
    (tmp_path / "manifest.json").write_bytes(b"{")
    make_set(seed=1).save(tmp_path)
    same(Distilled.load(tmp_path), make_set(seed=1))


def test_writer_refuses_what_the_reader_would(tmp_path):
    distilled = make_set()
    arrays = {"images": distilled.images.numpy(), "labels": distilled.labels.numpy()}
    other = arrays | {"images": arrays["images"] + 1}
    with pytest.raises(ArtifactError, match="not the one"):
        write_artifact(tmp_path, distilled.manifest, other, card="", sheet=b"")
    with pytest.raises(ArtifactError, match="not those"):
        write_artifact(tmp_path, distilled.manifest, {"images": arrays["images"]}, card="", sheet=b"")
    state = {
        "class_names": ["a"],
        "preprocess": {"space": "unit"},
        "label_space": "probabilities",
        "protocol": {},
        "image_floats": 1,
        "provenance": {},
        "certificate": None,
    }
    doubles = {name: array.astype(np.float64) for name, array in arrays.items()}
    with pytest.raises(ArtifactError, match=r"\[schema\]"):
        build_manifest(doubles, **state)
    assert visible(tmp_path) == []


def test_summary_reads_the_manifest_alone(tmp_path):
    make_set().save(tmp_path)
    (tmp_path / "set.safetensors").unlink()
    assert read_manifest_summary(tmp_path).image_shape == (6, 3, 4, 5)
