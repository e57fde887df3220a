"""Means of accuracies with 95 % confidence intervals by Student's t distribution."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from ddsdk.foundation import require

_NORMAL = 1.959964
_STUDENT = (
    *(12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281),
    *(2.2010, 2.1788, 2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860),
)
"""Quantiles 0.975 of the t distribution with 1 to 20 degrees of freedom."""


def student_quantile(freedom: int) -> float:
    """Return the quantile 0.975 of Student's t distribution.

    Beyond 20 degrees of freedom it is the expansion z + (z^3 + z) / 4f + (5 z^5 + 16 z^3 + 3 z) / 96 f^2.

    Args:
        freedom: Degrees of freedom, at least 1.

    Examples:
        >>> from ddsdk.experiments.intervals import student_quantile
        >>> student_quantile(2)
        4.3027
    """
    require(freedom >= 1, "freedom", "be at least 1", freedom)
    if freedom <= len(_STUDENT):
        return _STUDENT[freedom - 1]
    z = _NORMAL
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


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
    return student_quantile(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
