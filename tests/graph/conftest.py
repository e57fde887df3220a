"""PyTorch Geometric is an extra: without it these tests are not collected."""

from __future__ import annotations

from pathlib import Path

collect_ignore: list[str] = []
try:
    import torch_geometric  # noqa: F401
except ImportError:
    collect_ignore = [p.name for p in Path(__file__).parent.glob("test_*.py")]
