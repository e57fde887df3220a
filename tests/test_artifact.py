"""The folder of a set: round trips, every kind of damage, and hostile content."""

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from artefact_sets import CERTIFICATE, FILES, HOSTILE, forge, make_set, same, visible
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from ddsdk.artefact.distilled import Distilled
from ddsdk.artefact.folder import read_artifact
from ddsdk.artefact.header import parse_header
from ddsdk.artefact.manifest import encode_manifest
from ddsdk.foundation.errors import ArtifactError
from ddsdk.foundation.files import canonical_json

# -- round trips --


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"soft": True, "learned_lr": 0.0123, "stored_floats": 77, "certificate": CERTIFICATE},
        {"zca": True, "classes": 2, "shape": (1, 3, 2), "ipc": 4},
        {"classes": 1, "ipc": 1, "shape": (2, 1, 1)},
    ],
)
def test_round_trip_is_bit_exact(tmp_path, options):
    distilled = make_set(**options)
    assert distilled.save(tmp_path / "set") == distilled.content_id
    same(Distilled.load(tmp_path / "set"), distilled)
    assert visible(tmp_path / "set") == sorted(FILES)


def test_class_slots_round_trip_and_decide_the_owner(tmp_path):
    plain = make_set(soft=True)
    slots = torch.tensor([2, 2, 2, 1, 0, 0])
    distilled = Distilled(
        plain.images, plain.labels, class_names=plain.class_names, preprocess=plain.preprocess, classes=slots
    )
    distilled.save(tmp_path)
    same(Distilled.load(tmp_path), distilled)
    assert distilled.ipc == 3


def test_safetensors_alone_opens_the_file(tmp_path):
    distilled = make_set(soft=True)
    distilled.save(tmp_path)
    assert torch.equal(load_file(tmp_path / "set.safetensors")["images"], distilled.images)


SAVE = """
import sys
sys.path.insert(0, sys.argv[2])
from artefact_sets import make_set
make_set().save(sys.argv[1])
"""


def test_two_writes_and_processes_give_the_same_bytes(tmp_path):
    make_set().save(tmp_path / "a")
    make_set().save(tmp_path / "b")
    here = str(Path(__file__).parent)
    for seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": seed, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", SAVE, str(tmp_path / seed), here]
        subprocess.run(command, check=True, env=environment)
    for name in FILES:
        assert len({(tmp_path / d / name).read_bytes() for d in ("a", "b", "1", "2")}) == 1, name


def test_id_is_content_and_not_history():
    a = make_set()
    assert a.content_id == make_set(provenance={"seconds": 99.0}).content_id
    assert a.manifest.seal != make_set(provenance={"seconds": 99.0}).manifest.seal
    others = [make_set(seed=1), make_set(soft=True), make_set(protocol={"lr": 1}), make_set(certificate=CERTIFICATE)]
    others += [make_set(class_names=("a", "b", "c")), make_set(learned_lr=0.1), make_set(stored_floats=5)]
    assert len({a.content_id, *(o.content_id for o in others)}) == len(others) + 1


def test_id_agrees_with_a_slow_recomputation():
    distilled = make_set()
    body = json.loads(encode_manifest(distilled.manifest))
    table = {
        name: {
            "dtype": "F32",
            "shape": list(tensor.shape),
            "sha256": hashlib.sha256(np.asarray(tensor.tolist(), "<f4").tobytes()).hexdigest(),
        }
        for name, tensor in (("images", distilled.images), ("labels", distilled.labels))
    }
    kept = {k: v for k, v in body.items() if k not in ("id", "seal", "provenance")} | {"tensors": table}
    assert hashlib.sha256(canonical_json(kept)).hexdigest() == distilled.content_id


def test_storage_counts_labels():
    hard = make_set().manifest.storage
    soft = make_set(soft=True, learned_lr=0.1, stored_floats=10).manifest.storage
    assert (hard.labels, hard.image_floats, hard.label_floats, hard.floats) == ("hard", 360, 6, 366)
    assert (soft.labels, soft.floats, soft.bytes) == ("soft", 10 + 18 + 1, 4 * 29)


def test_summary_and_artifact_import_no_torch(tmp_path):
    make_set().save(tmp_path)
    code = """
import sys
from ddsdk.artefact.folder import read_manifest_summary
print(read_manifest_summary(sys.argv[1]).id, "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [make_set().content_id, "False"]


# -- damage --


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    distilled = make_set(shape=(3, 8, 8), ipc=3, soft=True, learned_lr=0.5)
    distilled.save(folder)
    return folder, distilled


def opens_equal_or_is_refused(folder, distilled):
    try:
        found = Distilled.load(folder)
    except ArtifactError:
        return False
    same(found, distilled)
    return True


def flips(size, header):
    return sorted({*range(header), *range(0, size, 997), size - 1})


@pytest.mark.parametrize("name", ["set.safetensors", "manifest.json"])
@pytest.mark.parametrize("bit", [0x01, 0x20, 0x80])
def test_flipped_bytes_are_refused_or_harmless(tmp_path, saved, name, bit):
    folder, distilled = saved
    for file in ("set.safetensors", "manifest.json"):
        shutil.copy(folder / file, tmp_path / file)
    good = (folder / name).read_bytes()
    header = 8 + int.from_bytes(good[:8], "little") if name.endswith("safetensors") else len(good)
    assert opens_equal_or_is_refused(tmp_path, distilled)
    accepted = 0
    for position in flips(len(good), header):
        bad = bytearray(good)
        bad[position] ^= bit
        (tmp_path / name).write_bytes(bad)
        accepted += opens_equal_or_is_refused(tmp_path, distilled)
    assert accepted <= header // 10


@settings(derandomize=True, deadline=None, max_examples=60)
@given(cut=st.integers(0, 5000), prefix=st.binary(max_size=20), name=st.sampled_from(FILES[1:3]))
def test_cut_and_prefixed_files_are_refused(saved, tmp_path_factory, cut, prefix, name):
    folder, distilled = saved
    target = tmp_path_factory.mktemp("cut")
    for file in ("set.safetensors", "manifest.json"):
        shutil.copy(folder / file, target / file)
    good = (folder / name).read_bytes()
    bad = prefix + good[: cut % (len(good) + 1)]
    (target / name).write_bytes(bad)
    if not opens_equal_or_is_refused(target, distilled):
        return
    assert bad.strip() == good.strip()


@settings(derandomize=True, deadline=None, max_examples=200)
@given(text=st.binary(max_size=200), size=st.integers(0, 1000))
def test_header_parser_never_fails_otherwise(text, size):
    with contextlib.suppress(ArtifactError):
        parse_header(text, size)


def entry(begin, end, shape, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("header", "size", "reason"),
    [
        (b'{"a":' + canonical_json(entry(0, 4, [1])) + b',"a":' + canonical_json(entry(0, 4, [1])) + b"}", 4, "header"),
        (canonical_json({"a": entry(0, 4, [1]), "b": entry(8, 12, [1])}), 12, "header"),
        (canonical_json({"a": entry(0, 8, [2]), "b": entry(4, 8, [1])}), 8, "header"),
        (canonical_json({"a": entry(4, 8, [1])}), 8, "header"),
        (canonical_json({"a": entry(0, 4, [1])}), 8, "truncated"),
        (canonical_json({"a": entry(0, 8, [2])}), 4, "truncated"),
        (canonical_json({"a": entry(0, 4, [1], "PICKLE")}), 4, "dtype"),
        (canonical_json({"a": entry(0, 4, [1], ["F32"])}), 4, "dtype"),
        (canonical_json({"a": entry(0, 4, [2])}), 4, "header"),
        (canonical_json({"a": entry(0, 0, [0])}), 0, "header"),
        (canonical_json({"a": entry(0, 4, [1, 1, 1, 1, 1])}), 4, "header"),
        (canonical_json({"a": entry(0, 4, [1 << 40, 1 << 40])}), 4, "header"),
        (canonical_json({"a": entry(0, 4, [True])}), 4, "header"),
        (canonical_json({"a": entry(0, 4, [1.0])}), 4, "header"),
        (canonical_json({"a": entry(4, 0, [-1])}), 4, "header"),
        (canonical_json({"../a": entry(0, 4, [1])}), 4, "header"),
        (canonical_json({"a": entry(0, 4, [1]) | {"x": 1}}), 4, "header"),
        (canonical_json({"__metadata__": {"a": "1", "b": "2"}, "a": entry(0, 4, [1])}), 4, "header"),
        (canonical_json({"__metadata__": {"a": 1}, "a": entry(0, 4, [1])}), 4, "header"),
        (canonical_json({f"a{i}": entry(4 * i, 4 * i + 4, [1]) for i in range(17)}), 68, "header"),
        (b"{}", 0, "header"),
        (b"[]", 0, "header"),
        (b"[" * 100_000, 0, "header"),
    ],
)
def test_bad_headers(header, size, reason):
    with pytest.raises(ArtifactError) as caught:
        parse_header(header, size)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "truncated"),
        (b"1234567", "truncated"),
        ((2**63).to_bytes(8, "little"), "header"),
        ((200 << 20).to_bytes(8, "little") + b"{}", "header"),
        ((100).to_bytes(8, "little") + b"{}", "truncated"),
        (b"\x80\x04\x95 pickled".ljust(64), "header"),
    ],
)
def test_bad_beginnings(tmp_path, saved, data, reason):
    shutil.copy(saved[0] / "manifest.json", tmp_path / "manifest.json")
    (tmp_path / "set.safetensors").write_bytes(data)
    with pytest.raises(ArtifactError) as caught:
        read_artifact(tmp_path)
    assert caught.value.reason == reason


def test_caps_missing_files_and_pipes(tmp_path, saved):
    folder, _ = saved
    with pytest.raises(ArtifactError, match=r"\[size\]"):
        read_artifact(folder, max_bytes=1000)
    with pytest.raises(ArtifactError, match=r"\[missing\]"):
        read_artifact(tmp_path / "none")
    shutil.copy(folder / "manifest.json", tmp_path / "manifest.json")
    with pytest.raises(ArtifactError, match=r"\[missing\]"):
        read_artifact(tmp_path)
    os.mkfifo(tmp_path / "set.safetensors")
    with pytest.raises(ArtifactError, match=r"\[type\]"):
        read_artifact(tmp_path)


def test_tensors_of_another_set_are_refused(tmp_path):
    make_set(seed=0).save(tmp_path / "a")
    make_set(seed=1).save(tmp_path / "b")
    shutil.copy(tmp_path / "b" / "set.safetensors", tmp_path / "a" / "set.safetensors")
    with pytest.raises(ArtifactError, match=r"\[mixed\]"):
        read_artifact(tmp_path / "a")


# -- hostile content under right hashes --


def reason_of(folder):
    with pytest.raises(ArtifactError) as caught:
        Distilled.load(folder)
    return caught.value.reason, str(caught.value)


def test_an_honest_forgery_opens(tmp_path):
    forge(tmp_path, classes=np.array([0, 0, 1, 1, 2, 2]))
    assert len(Distilled.load(tmp_path)) == 6


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["images", "labels", "learned_lr"])
def test_non_finite_numbers_are_refused(tmp_path, name, value):
    base = make_set()
    array = {"images": base.images, "labels": base.labels, "learned_lr": torch.tensor(0.1)}[name].numpy().copy()
    array.flat[-1] = value

    def keep_range(body):
        body["value_range"] = [0.0, 1.0]

    forge(tmp_path, keep_range, **{name: array})
    assert reason_of(tmp_path)[0] == "finite"


@pytest.mark.parametrize(("row", "text"), [([0.5, 0.6, 0.0], "sum to 1"), ([1.5, -0.5, 0.0], "non-negative")])
def test_bad_label_rows_are_named(tmp_path, row, text):
    labels = make_set().labels.numpy().copy()
    labels[4] = row
    forge(tmp_path, labels=labels)
    reason, message = reason_of(tmp_path)
    assert reason == "labels"
    assert text in message
    assert "row 4" in message


def set_to(*path, value):
    def edit(body):
        for key in path[:-1]:
            body = body[key]
        body[path[-1]] = value

    return edit


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (set_to("format", value=0), "format"),
        (set_to("format", value=True), "format"),
        (set_to("format", value="1"), "format"),
        (set_to("kind", value="other"), "schema"),
        (set_to("extra", value=1), "schema"),
        (set_to("storage", "extra", value=1), "schema"),
        (set_to("storage", "image_floats", value=0), "schema"),
        (set_to("label_space", value="logits"), "schema"),
        (set_to("class_names", value=["a", "b"]), "schema"),
        (set_to("class_names", value=["a", "b", "\x1b[31m"]), "text"),
        (set_to("class_names", value=["a", "b", "x" * 201]), "text"),
        (set_to("class_names", value=["a", "b", "\ud800"]), "text"),
        (set_to("privacy", value="a\u202eb"), "text"),
        (set_to("privacy", value="(1, 1e-5)-differential privacy"), "privacy"),
        (set_to("certificate", value=msgspec.to_builtins(CERTIFICATE)), "privacy"),
        (set_to("certificate", value={}), "schema"),
        (set_to("certificate", value=msgspec.to_builtins(CERTIFICATE) | {"epsilon": -1.0}), "schema"),
        (set_to("certificate", value=msgspec.to_builtins(CERTIFICATE) | {"releases": []}), "schema"),
        (set_to("certificate", value=msgspec.to_builtins(CERTIFICATE) | {"protects": "a\nb"}), "schema"),
        (set_to("provenance", value={"a": ["\x07"]}), "text"),
        (set_to("provenance", value={"\x07": 1}), "text"),
        (set_to("preprocess", value={}), "schema"),
        (set_to("preprocess", value={"space": "unit"}), "preprocess"),
        (set_to("preprocess", "std", value=[0.0, 1.0, 1.0]), "preprocess"),
        (set_to("preprocess", "space", value="zca"), "schema"),
        (set_to("value_range", value=[0.0, 1.0]), "range"),
        (set_to("tensors", "images", "shape", value=[6, 60]), "schema"),
        (set_to("tensors", "images", "shape", value=[3, 3, 8, 5]), "schema"),
        (set_to("tensors", "images", "dtype", value="I64"), "schema"),
        (set_to("tensors", "images", "sha256", value="0"), "schema"),
        (set_to("tensors", "images", "sha256", value="0" * 64), "hash"),
        (set_to("tensors", "../x", value={"dtype": "F32", "shape": [], "sha256": "0" * 64}), "schema"),
    ],
)
def test_bad_manifests(tmp_path, edit, reason):
    forge(tmp_path, edit)
    assert reason_of(tmp_path)[0] == reason


def test_class_slots_out_of_range(tmp_path):
    forge(tmp_path, classes=np.array([0, 0, 1, 1, 2, 3]))
    assert reason_of(tmp_path)[0] == "classes"


def test_future_format_is_named(tmp_path):
    forge(tmp_path, lambda body: body.update(format=7, brand_new={"a": 1}))
    reason, message = reason_of(tmp_path)
    assert reason == "format"
    assert "format 7" in message
    assert "upgrade" in message
    with pytest.raises(ArtifactError, match="format 7"):
        make_set().save(tmp_path)


def test_edited_provenance_breaks_the_seal(tmp_path):
    forge(tmp_path, set_to("provenance", "recipe", value="better"), rehash=False)
    assert reason_of(tmp_path)[0] == "seal"


def test_a_set_cannot_claim_the_content_id_of_another(tmp_path):
    """Everything else fits: the tensors have their hashes, and the manifest its seal."""
    forge(tmp_path, claimed=make_set(learned_lr=0.5).content_id)
    assert reason_of(tmp_path)[0] == "seal"
    forge(tmp_path)
    assert Distilled.load(tmp_path).content_id != make_set(learned_lr=0.5).content_id


def test_bottomless_and_huge_manifests(tmp_path):
    forge(tmp_path)
    (tmp_path / "manifest.json").write_bytes(b'{"format":1,"provenance":' + b"[" * 200_000 + b"]" * 200_000 + b"}")
    assert reason_of(tmp_path)[0] == "manifest"
    with (tmp_path / "manifest.json").open("wb") as handle:
        handle.truncate(1 << 30)
    assert reason_of(tmp_path)[0] == "size"


def test_hostile_class_names_travel_clean(tmp_path):
    distilled = make_set(classes=len(HOSTILE), class_names=HOSTILE, provenance={"\x1b[1mk": ["\x07", HOSTILE[5]]})
    distilled.save(tmp_path)
    found = Distilled.load(tmp_path)
    same(found, distilled)
    assert found.class_names[0] == HOSTILE[0]
    assert max(map(len, found.class_names)) == 200
    for name in found.class_names:
        assert name.isprintable()
    assert visible(tmp_path) == sorted(FILES)


@pytest.mark.parametrize("name", ["manifest.json", "set.safetensors"])
def test_a_folder_in_the_place_of_a_file_is_refused_and_leaks_nothing(tmp_path, name):
    make_set().save(tmp_path)
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    for _ in range(3):
        with pytest.raises(ArtifactError, match=name) as error:
            Distilled.load(tmp_path)
        assert error.value.reason == "type"
    descriptors = [fd for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink()]
    assert not any(str(tmp_path) in str(fd.readlink()) for fd in descriptors)
