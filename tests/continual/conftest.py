"""Avalanche warns of its own deprecations at every experience."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

collect_ignore: list[str] = []
try:
    import avalanche  # noqa: F401
except ImportError:
    collect_ignore = [p.name for p in Path(__file__).parent.glob("test_*.py")]


@pytest.fixture(autouse=True)
def known_chance():
    """Avalanche's loops draw from the global generator: set it, and put it back."""
    state = torch.get_rng_state()
    torch.manual_seed(0)
    yield
    torch.set_rng_state(state)
