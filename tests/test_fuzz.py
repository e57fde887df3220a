"""A minute of coverage-guided fuzzing over the parsers of foreign files; what it found interesting is kept."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from fuzz_seeds import SEEDS

pytestmark = pytest.mark.slow

pytest.importorskip("atheris")

HERE = Path(__file__).parent / "fuzz"
# FUZZ_SECONDS=600 is for a long search by hand, of each parser by itself.
SECONDS = int(os.environ.get("FUZZ_SECONDS", "6"))
# Most of a short search is the start of its process, which the parsers of a module share.
MODULES = {
    "folders": ["idx", "tree", "decoded", "store", "runs"],
    "records": ["results", "cells", "ratings", "graphs"],
    "federation": ["reply", "request", "rounds"],
}
SHARED = {name for names in MODULES.values() for name in names}
NAMES = list(SEEDS) if "FUZZ_SECONDS" in os.environ else [*(name for name in SEEDS if name not in SHARED), *MODULES]


def inputs(name):
    """Return the sound inputs of a parser, and those that were interesting once."""
    kept = HERE / "corpus" / name
    return [*SEEDS[name](), *(path.read_bytes() for path in sorted(kept.glob("*")))]


# The limit of pytest for every test is that of a long search too.
@pytest.mark.timeout(300 + SECONDS)
@pytest.mark.parametrize("name", NAMES)
def test_a_parser_refuses_or_returns_and_nothing_else(name, tmp_path):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    found = inputs(name) if name in SEEDS else []
    for number, inner in enumerate(MODULES.get(name, ())):
        found += [bytes([number]) + data for data in inputs(inner)]
    for i, data in enumerate(found):
        (corpus / f"input-{i}").write_bytes(data)
    # The folder of the parsers goes with that of the test.
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(tmp_path)}
    command = [sys.executable, str(HERE / "parsers.py"), name]
    options = [f"-max_total_time={SECONDS}", "-max_len=8192", "-timeout=10", "-rss_limit_mb=3072"]
    options += [f"-artifact_prefix={tmp_path}/", str(corpus)]
    done = subprocess.run([*command, *options], env=env, capture_output=True, text=True, timeout=240 + SECONDS)
    (tmp_path / "log").write_text(done.stderr)
    assert "Done" in done.stderr, done.stderr[-3000:]
    # The timer of the fuzzer may end the process while Python shuts down on a busy machine.
    assert done.returncode in (0, -signal.SIGALRM), done.stderr[-3000:]


def test_the_modules_are_those_of_the_fuzzer():
    text = (HERE / "parsers.py").read_text()
    for module, names in MODULES.items():
        assert f'"{module}": "{" ".join(names)}"' in text
