"""The memory of a step: one class and one micro-batch at a time."""

from __future__ import annotations

import sys

import pytest

from benchmarks.machine.speed import step_memory

pytestmark = pytest.mark.slow

MIB = 2**20
IPC, WIDTH = 10, 16
PIXELS = 28 * 28 * 4


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the peak of a process from a point on")
@pytest.mark.parametrize("name", ["dm", "dc"])
def test_the_memory_of_a_step_grows_with_the_set_and_not_with_its_activations(name):
    few = step_memory(name, 10, 32, IPC, WIDTH)
    many = step_memory(name, 60, 32, IPC, WIDTH)
    large = step_memory(name, 10, 512, IPC, WIDTH)
    # The set itself, its gradient, its momentum and two copies to undo a step; the graphs of 50 more classes would take
    # 90 MiB and more.
    assert many - few < 8 * 50 * IPC * PIXELS + 36 * MIB
    # The images of one class, as they are and in the value space; their activations would take 70 MiB and more.
    assert large - few < 4 * 480 * PIXELS + 20 * MIB
