"""What is wrong with the numbers of a distilled set, beyond their shapes: asked before writing and after reading."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["label_fault", "pace_fault"]


def label_fault(labels: NDArray[Any], label_space: str) -> str | None:
    """Return what is wrong with labels (M, K), naming the first bad row, or None.

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
    """Return what is wrong with learned rates and momenta, one or one for each step, or None.

    Rates are positive and finite; momenta lie in 0 <= value < 1.
    """
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
