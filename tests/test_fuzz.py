"""A minute of coverage-guided fuzzing over the parsers of foreign files; what it found interesting is kept."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from fuzz_seeds import SEEDS

pytestmark = pytest.mark.slow

pytest.importorskip("atheris")

HERE = Path(__file__).parent / "fuzz"
# FUZZ_SECONDS=600 is for a long search by hand.
SECONDS = int(os.environ.get("FUZZ_SECONDS", "6"))


# The limit of pytest for every test is that of a long search too.
@pytest.mark.timeout(300 + SECONDS)
@pytest.mark.parametrize("name", SEEDS)
def test_a_parser_refuses_or_returns_and_nothing_else(name, tmp_path):
    corpus = tmp_path / "corpus"
    kept = HERE / "corpus" / name
    shutil.copytree(kept, corpus) if kept.is_dir() else corpus.mkdir()
    for i, seed in enumerate(SEEDS[name]()):
        (corpus / f"seed-{i}").write_bytes(seed)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(HERE / "parsers.py"), name]
    options = [f"-max_total_time={SECONDS}", "-max_len=8192", "-timeout=10", "-rss_limit_mb=3072"]
    options += [f"-artifact_prefix={tmp_path}/", str(corpus)]
    done = subprocess.run([*command, *options], env=env, capture_output=True, text=True, timeout=240 + SECONDS)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Done" in done.stderr
