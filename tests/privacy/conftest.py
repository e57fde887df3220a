"""Opacus is an extra: without it these tests are not collected."""

from __future__ import annotations

from pathlib import Path

import pytest

collect_ignore: list[str] = []
try:
    import opacus  # noqa: F401
except ImportError:
    collect_ignore = [p.name for p in Path(__file__).parent.glob("test_*.py")]


@pytest.fixture(autouse=True)
def quiet():
    """Opacus warns of orders of Renyi divergence at the edge of its range."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
