"""Means of accuracies with 95 % confidence intervals by Student's t distribution."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from scipy.special import stdtrit


def half_width(values: Sequence[float]) -> float | None:
    """Return half of the width of the 95 % confidence interval of a mean; None for fewer than two values.

    Args:
        values: Independent measurements, such as the accuracies of several networks.

    Examples:
        >>> from ddsdk.experiments import half_width
        >>> round(half_width([0.5, 0.6, 0.7]), 4)
        0.2484
    """
    if len(values) < 2:
        return None
    quantile = float(stdtrit(len(values) - 1, 0.975))
    return quantile * statistics.stdev(values) / math.sqrt(len(values))
