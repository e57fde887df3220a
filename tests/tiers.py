"""The two tiers of the tests: what takes long has the marker ``slow``, and a test that should have it fails."""

from __future__ import annotations

import os
import time

import pytest

# On a busy machine a second of work takes several by the clock.
LIMITS = {"slow_cpu_seconds": "10", "slow_seconds": "60"}


def cpu_seconds() -> float:
    """CPU time of this process and of its children that have ended."""
    return sum(os.times()[:4])


def pytest_addoption(parser):
    for name, default in LIMITS.items():
        parser.addini(name, "Limit of a test without the marker slow, children included.", default=default)


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: belongs to the second tier, make test-slow")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    cpu, wall = cpu_seconds(), time.perf_counter()
    result = yield
    cpu, wall = cpu_seconds() - cpu, time.perf_counter() - wall
    most_cpu, most_wall = (float(item.config.getini(name)) for name in LIMITS)
    if (cpu > most_cpu or wall > most_wall) and item.get_closest_marker("slow") is None:
        pytest.fail(f"took {cpu:.1f} CPU seconds and {wall:.1f} s: mark it slow, or make it faster", pytrace=False)
    return result
