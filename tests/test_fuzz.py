"""A minute of coverage-guided fuzzing over the parsers of foreign files; what it found interesting is kept."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from artefact_sets import make_set
from PIL import Image
from quick_units import echo

from ddsdk.foundation.unit import seal_result
from ddsdk.running.checkpoint import write_checkpoint
from ddsdk_integrations.privacy import Budget, Ledger

pytestmark = pytest.mark.slow

pytest.importorskip("atheris")

HERE = Path(__file__).parent / "fuzz"
# FUZZ_SECONDS=600 is for a long search by hand.
SECONDS = int(os.environ.get("FUZZ_SECONDS", "6"))


def stored(write, name):
    """Return the bytes of a file that a function writes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        write(path)
        return path.read_bytes()


def picture(form="PNG"):
    """Return a small picture in one of the documented formats."""
    target = io.BytesIO()
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3)).save(target, form)
    return target.getvalue()


def parquet(path):
    pq.write_table(pa.table({"image": [picture(), picture("BMP")], "label": [0, 1]}), path)


def tar(path):
    with tarfile.open(path, "w") as archive:
        for name, content in (("0.png", picture()), ("0.cls", b"0"), ("1.png", picture()), ("1.json", b'{"label": 1}')):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def npz(path):
    np.savez(path, images=np.zeros((2, 4, 4, 3), np.uint8), labels=np.arange(2))


def checkpoint(path):
    write_checkpoint(path, {}, {"index": 1, "tensor": torch.ones(2), "list": [None, 0.5, "text"]})


def ledger(path):
    Ledger(Budget(epsilon=1.0, delta=1e-5), path)
    if not path.exists():
        path.write_bytes(b"{}")


def folder():
    """Return manifest and tensors of a set, joined by a zero byte."""
    with tempfile.TemporaryDirectory() as home:
        make_set(ipc=1, shape=(1, 2, 2)).save(home)
        return b"\0".join((Path(home) / name).read_bytes() for name in ("manifest.json", "set.safetensors"))


def seeds(name):
    """Return sound inputs, from which the fuzzer sets out."""
    distilled = make_set(ipc=1, shape=(1, 2, 2))
    blob = distilled.to_bytes()
    length = int.from_bytes(blob[:8], "little")
    head = blob[8 + length :]
    sealed = seal_result(echo("a"), b"result")
    return {
        "manifest": [blob[8 : 8 + length]],
        "header": [head[: 8 + int.from_bytes(head[:8], "little")]],
        "config": [json.dumps({"epochs": 3, "decay_at": [0.5], "network_options": {"width": 8}}).encode()],
        "packed": [blob],
        "unit": [sealed, echo("a").description],
        "picture": [picture(form) for form in ("PNG", "JPEG", "BMP", "GIF", "WEBP", "PPM", "TIFF")],
        "npz": [stored(npz, "data.npz")],
        "parquet": [stored(parquet, "data.parquet")],
        "tar": [stored(tar, "data.tar")],
        "csv": [b"text,label\na good one,pos\na bad one,neg\n"],
        "checkpoint": [stored(checkpoint, "checkpoint.safetensors")],
        "ledger": [stored(ledger, "ledger.json")],
        "folder": [folder()],
    }[name]


PARSERS = "manifest header config packed unit picture npz parquet tar csv checkpoint ledger folder"


@pytest.mark.parametrize("name", PARSERS.split())
def test_a_parser_refuses_or_returns_and_nothing_else(name, tmp_path):
    corpus = tmp_path / "corpus"
    kept = HERE / "corpus" / name
    shutil.copytree(kept, corpus) if kept.is_dir() else corpus.mkdir()
    for i, seed in enumerate(seeds(name)):
        (corpus / f"seed-{i}").write_bytes(seed)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(HERE / "parsers.py"), name]
    options = [f"-max_total_time={SECONDS}", "-max_len=8192", "-timeout=10", "-rss_limit_mb=3072"]
    options += [f"-artifact_prefix={tmp_path}/", str(corpus)]
    done = subprocess.run([*command, *options], env=env, capture_output=True, text=True, timeout=240 + SECONDS)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Done" in done.stderr
