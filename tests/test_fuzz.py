"""A minute of coverage-guided fuzzing over the parsers of foreign files; what it found interesting is kept."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from artefact_sets import make_set
from quick_units import echo

from ddsdk.foundation.unit import seal_result

pytestmark = pytest.mark.slow

pytest.importorskip("atheris")

HERE = Path(__file__).parent / "fuzz"
SECONDS = 12


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
    }[name]


@pytest.mark.parametrize("name", ["manifest", "header", "config", "packed", "unit"])
def test_a_parser_refuses_or_returns_and_nothing_else(name, tmp_path):
    corpus = tmp_path / "corpus"
    kept = HERE / "corpus" / name
    shutil.copytree(kept, corpus) if kept.is_dir() else corpus.mkdir()
    for i, seed in enumerate(seeds(name)):
        (corpus / f"seed-{i}").write_bytes(seed)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(HERE / "parsers.py"), name]
    options = [f"-max_total_time={SECONDS}", "-max_len=4096", "-timeout=10", "-rss_limit_mb=4096"]
    options += [f"-artifact_prefix={tmp_path}/", str(corpus)]
    done = subprocess.run([*command, *options], env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Done" in done.stderr
