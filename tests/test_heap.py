"""Freed memory stays in the process, up to a limit, unless the user has set it otherwise."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

# Page faults of ten rounds that write four blocks of 16 MiB, after ten rounds that warm up.
COUNT = """
import resource, torch
from ddsdk.foundation import plain_torch
with plain_torch():
    pass
for round in range(20):
    if round == 10:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [torch.ones(2**22) for _ in range(4)]
    del blocks
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(**environment):
    command = [sys.executable, "-c", COUNT]
    result = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, check=True, timeout=300
    )
    return int(result.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is one of glibc")
def test_memory_is_kept_unless_the_user_has_set_otherwise():
    # A round without reuse clears 16,384 pages.
    assert page_faults() < 10_000
    assert page_faults(MALLOC_TRIM_THRESHOLD_="131072", MALLOC_MMAP_THRESHOLD_="131072") > 10_000
