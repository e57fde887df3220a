"""Faults in the numbers of a distilled set, beyond their shapes: looked for before writing and after reading."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def label_fault(labels: NDArray[Any], label_space: str) -> str | None:
    """Return the fault of labels (M, K) with the first bad row, or None.

    In the space ``"probabilities"`` every entry is non-negative and every row sums to 1 within 1e-4; in ``"scores"``
    every entry is finite.
    """
    if label_space == "scores":
        loud = np.flatnonzero(~np.isfinite(labels).all(axis=1))
        return f"labels must be finite, got NaN or infinity in row {int(loud[0])}" if len(loud) else None
    if label_space != "probabilities":
        return f"label_space must be 'probabilities' or 'scores', got {label_space!r}"
    negative = np.flatnonzero((labels < 0).any(axis=1))
    if len(negative):
        row = int(negative[0])
        return f"labels must be non-negative, got {float(labels[row].min()):.6g} in row {row}"
    totals = labels.sum(axis=1, dtype=np.float64)
    wrong = np.flatnonzero(~(np.abs(totals - 1) <= 1e-4))
    if len(wrong):
        row = int(wrong[0])
        return f"label rows must sum to 1 within 1e-4, got {totals[row]:.6g} in row {row}"
    return None


def pace_fault(rates: NDArray[Any] | None, momenta: NDArray[Any] | None) -> str | None:
    """Return the fault of learned rates and momenta, one or one for each step, or None."""
    for name, values, rule in (
        ("learned_lr", rates, "be positive and finite"),
        ("learned_momentum", momenta, "lie in 0 <= value < 1"),
    ):
        if values is None:
            continue
        good = (values > 0) & np.isfinite(values) if values is rates else (values >= 0) & (values < 1)
        bad = np.atleast_1d(values)[~np.atleast_1d(good)]
        if len(bad):
            return f"{name} must {rule}, got {float(bad[0])}"
    return None


def edge_fault(index: NDArray[Any] | None, weight: NDArray[Any] | None, rows: int) -> str | None:
    """Return the fault of edges (2, E) and weights (E,) of a set whose images have M H rows together, or None."""
    if index is None or weight is None:
        return None if index is weight else "edge_index and edge_weight must come together, got one of them"
    if index.ndim != 2 or len(index) != 2 or index.shape[1:] != weight.shape or not weight.size:
        return f"edge_index must have shape (2, E) for E >= 1 weights, got {index.shape} and {weight.shape}"
    if index.min() < 0 or index.max() >= rows:
        return f"edge_index must lie in 0..{rows - 1}, got {int(index.min())}..{int(index.max())}"
    loud = weight[~np.isfinite(weight)]
    return f"edge_weight must be finite, got {float(loud[0])}" if len(loud) else None
