"""The marker ``slow``: a long test fails without it, and passes with it."""

from __future__ import annotations

import pytest

pytest_plugins = ["pytester"]

TESTS = """
import pytest, subprocess, sys, time

WORK = "import time\\nend = time.process_time() + 0.3\\nwhile time.process_time() < end: pass"

def test_quick(): pass

def test_work(): exec(WORK)

def test_work_of_a_child(): subprocess.run([sys.executable, "-c", WORK], check=True)

def test_waiting(): time.sleep(0.5)

@pytest.mark.slow
def test_marked(): exec(WORK)
"""


@pytest.mark.parametrize(
    ("cpu", "wall", "failed"),
    [(0.2, 60.0, ["test_work", "test_work_of_a_child"]), (10.0, 0.4, ["test_waiting"]), (10.0, 60.0, [])],
    ids=["work", "waiting", "none"],
)
def test_a_long_test_needs_the_marker(pytester, cpu, wall, failed):
    pytester.makeini(f"[pytest]\nslow_cpu_seconds = {cpu}\nslow_seconds = {wall}\n")
    pytester.makepyfile(TESTS)
    reports = pytester.inline_run("-p", "tiers", "-p", "no:cacheprovider").getfailures()
    assert set(failed) <= {report.nodeid.split("::")[1] for report in reports}
    assert not {"test_quick", "test_marked"} & {report.nodeid.split("::")[1] for report in reports}
    assert all("mark it slow" in report.longreprtext for report in reports)
