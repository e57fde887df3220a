"""A run that is killed at any moment, or asked to stop, gives the same set in the end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import killed_runs
import pytest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=killed_runs.RECIPES)
def report(request, tmp_path_factory):
    done = subprocess.run(
        [sys.executable, killed_runs.__file__, str(tmp_path_factory.mktemp("kill")), request.param],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parent,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout) | {"recipe": request.param}


def test_a_killed_run_ends_with_the_same_set(report):
    killed = report["killed"]
    phases = [phase for phase, _, _ in killed["kills"]]
    wanted = killed_runs.kills_of(report["recipe"])
    assert {phase: phases.count(phase) for phase in wanted} == wanted
    assert killed["finished"]
    assert set(killed["finished"]) == {report["id"]}
    between = {step for phase, step, _ in killed["kills"] if phase == "steps"}
    assert len(between) >= min(3, wanted["steps"])


def test_a_killed_run_leaves_no_files_behind(report):
    assert {tuple(names) for names in report["killed"]["files"]} == {tuple(report["files"])}
    assert report["killed"]["cache"] == report["cache"]


def test_a_terminated_run_says_how_to_go_on(report):
    stopped = report["terminated"]
    assert stopped["code"] == 75
    assert 5 <= stopped["step"] < killed_runs.STEPS
    assert f"stopped after step {stopped['step']}; continue with: ddsdk distill --data digits" in stopped["log"]
    assert "--resume" in stopped["log"]


def test_going_on_takes_the_option_resume(report):
    stopped = report["terminated"]
    assert stopped["without_resume"] == 2
    assert "pass --resume" in stopped["refusal"]
    assert stopped["resumed"] == 0
    assert stopped["id"] == report["id"]
    assert stopped["again"] == 0
    assert not stopped["checkpoint"]
