"""Lower bound on epsilon from correct guesses about canaries, and the largest bound that the audit can reach."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy.stats import binom

from ddsdk.foundation import require, require_count

_LARGEST_EPSILON = 50.0


class OneRunBound(NamedTuple):
    """Lower bound on epsilon from the guesses of an audit.

    Attributes:
        epsilon: Lower bound; 0 where the guesses are no better than coin flips.
        ceiling: Bound for the case that every guess is correct: the largest bound for this number of guesses.
    """

    epsilon: float
    ceiling: float


def p_value(right: int, guesses: int, canaries: int, *, epsilon: float, delta: float) -> float:
    """Return an upper bound on the probability of `right` correct guesses under an (epsilon, delta)-private mechanism.

    P[Binomial(r, e^eps / (1 + e^eps)) >= v] + 2 m delta max_i sum_{j <= i} P[Binomial = v - j] / i, for v of r guesses
    that are correct among m canaries. A fair coin decides for each canary whether it is among the records.

    Args:
        right: Number v of correct guesses.
        guesses: Number r of guesses.
        canaries: Number m of canaries.
        epsilon: Epsilon of the claimed guarantee.
        delta: Delta of the claimed guarantee.

    References:
        Steinke, Nasr and Jagielski, "Privacy Auditing with One (1) Training Run", NeurIPS 2023.
    """
    chance = 1 / (1 + math.exp(-epsilon))
    tail = float(binom.sf(right - 1, guesses, chance))
    below = np.arange(right - 1, -1, -1)
    means = binom.pmf(below, guesses, chance).cumsum() / np.arange(1, right + 1)
    return min(1.0, tail + 2 * canaries * delta * float(means.max(initial=0.0)))


def one_run_bound(right: int, guesses: int, canaries: int, *, delta: float, level: float = 0.05) -> OneRunBound:
    """Return the largest epsilon that the correct guesses refute, and the largest that the audit could refute.

    Args:
        right: Number of correct guesses.
        guesses: Number of guesses, at most `canaries`.
        canaries: Number of canaries, at least `guesses`.
        delta: Delta of the claimed guarantee.
        level: Probability, in 0 < value < 1, with which the bound may be wrong.

    Examples:
        >>> from ddsdk_integrations.privacy import one_run_bound
        >>> bound = one_run_bound(right=45, guesses=50, canaries=100, delta=1e-5)
        >>> round(bound.epsilon, 1), round(bound.ceiling, 1)
        (1.4, 2.8)
    """
    require_count("guesses", guesses)
    require(0 <= right <= guesses, "right", f"lie in 0..{guesses}", right)
    require(guesses <= canaries, "guesses", f"not exceed the {canaries} canaries", guesses)
    require(0 < level < 1, "level", "lie strictly between 0 and 1", level)

    def refuted(right: int) -> float:
        low, high = 0.0, _LARGEST_EPSILON
        if p_value(right, guesses, canaries, epsilon=0.0, delta=delta) > level:
            return 0.0
        # The p-value rises with epsilon: bisection finds the epsilon at which it crosses the level.
        for _ in range(40):
            middle = (low + high) / 2
            plausible = p_value(right, guesses, canaries, epsilon=middle, delta=delta) > level
            low, high = (low, middle) if plausible else (middle, high)
        return low

    return OneRunBound(refuted(right), refuted(guesses))
