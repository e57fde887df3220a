"""Wrong lines of code, each with the tests that must fail: `make mutants` applies them to a copy, one after the other.

A test whose mutants all survive checks nothing. `python tests/mutants.py NAME ...` takes some of them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent


class Mutant(NamedTuple):
    """A wrong line: the file below the root, the right text, which occurs there once, the wrong text, and the tests."""

    file: str
    right: str
    wrong: str
    tests: str


MUTANTS: dict[str, Mutant] = {}


def killed_by(mutant: Mutant, copy: Path) -> str:
    """Return the first test that fails with the wrong line; empty if the mutant survives."""
    path = copy / mutant.file
    text = path.read_text()
    assert text.count(mutant.right) == 1
    path.write_text(text.replace(mutant.right, mutant.wrong))
    env = {**os.environ, "PYTHONPATH": f"{copy}{os.pathsep}{copy / 'integrations'}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *mutant.tests.split()]
    done = subprocess.run(command, cwd=copy, env=env, capture_output=True, text=True)
    path.write_text(text)
    failed = [line.split()[1] for line in done.stdout.splitlines() if line.startswith(("FAILED ", "ERROR "))]
    assert failed or done.returncode == 0, done.stdout + done.stderr
    return failed[0] if failed else ""


def main(names: list[str]) -> int:
    survivors = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        ignored = shutil.ignore_patterns(".venv", ".git", "out", "__pycache__", ".mypy_cache", ".ruff_cache")
        shutil.copytree(ROOT, copy, ignore=ignored)
        print("| wrong line | file | killed by |\n| --- | --- | --- |", flush=True)
        for name in names or MUTANTS:
            test = killed_by(MUTANTS[name], copy)
            survivors += not test
            print(f"| {name} | `{MUTANTS[name].file}` | {f'`{test}`' if test else '**survives**'} |", flush=True)
    return min(survivors, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
