"""Checks of the numbers of a distilled set, beyond their shapes, which are run before writing and after reading."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def label_fault(labels: NDArray[Any], label_space: str) -> str | None:
    """Return the message for the first faulty row of labels (M, K), or None.

    In the label space ``"probabilities"``, entries must be non-negative and rows must sum to 1 within 1e-4. In
    ``"scores"``, entries must be finite.
    """
    if label_space == "scores":
        bad_rows = np.flatnonzero(~np.isfinite(labels).all(axis=1))
        return f"labels must be finite, got NaN or infinity in row {int(bad_rows[0])}" if len(bad_rows) else None
    if label_space != "probabilities":
        return f"label_space must be 'probabilities' or 'scores', got {label_space!r}"
    negative = np.flatnonzero((labels < 0).any(axis=1))
    if len(negative):
        row = int(negative[0])
        return f"labels must be non-negative, got {float(labels[row].min()):.6g} in row {row}"
    totals = labels.sum(axis=1, dtype=np.float64)
    unnormalised = np.flatnonzero(~(np.abs(totals - 1) <= 1e-4))
    if len(unnormalised):
        row = int(unnormalised[0])
        return f"label rows must sum to 1 within 1e-4, got {totals[row]:.6g} in row {row}"
    return None


def per_step_fault(rates: NDArray[Any] | None, momenta: NDArray[Any] | None) -> str | None:
    """Return the message for faulty learned rates or momenta, scalars or one for each step, or None."""
    for name, values, rule in (
        ("learned_lr", rates, "be positive and finite"),
        ("learned_momentum", momenta, "lie in 0 <= value < 1"),
    ):
        if values is None:
            continue
        valid = (values > 0) & np.isfinite(values) if values is rates else (values >= 0) & (values < 1)
        invalid_values = np.atleast_1d(values)[~np.atleast_1d(valid)]
        if len(invalid_values):
            return f"{name} must {rule}, got {float(invalid_values[0])}"
    return None


def edge_fault(index: NDArray[Any] | None, weight: NDArray[Any] | None, rows: int) -> str | None:
    """Return the message for faulty edges (2, E) or weights (E,) of a set with `rows` image rows in total, or None."""
    if index is None or weight is None:
        return None if index is weight else "edge_index and edge_weight must come together, got one of them"
    if index.ndim != 2 or len(index) != 2 or index.shape[1:] != weight.shape or not weight.size:
        return f"edge_index must have shape (2, E) for E >= 1 weights, got {index.shape} and {weight.shape}"
    if index.min() < 0 or index.max() >= rows:
        return f"edge_index must lie in 0..{rows - 1}, got {int(index.min())}..{int(index.max())}"
    non_finite = weight[~np.isfinite(weight)]
    return f"edge_weight must be finite, got {float(non_finite[0])}" if len(non_finite) else None
