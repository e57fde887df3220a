"""From right guesses about canaries to a lower bound on epsilon, with the highest that so many guesses can show."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy.stats import binom

from ddsdk.foundation import require, require_count

_HIGHEST = 50.0


class OneRunBound(NamedTuple):
    """A lower bound on epsilon from guesses.

    Attributes:
        epsilon: Lower bound; 0 where the guesses are no better than coins.
        ceiling: Bound if every guess had been right: no audit with as many guesses can show more.
    """

    epsilon: float
    ceiling: float


def p_value(right: int, guesses: int, canaries: int, *, epsilon: float, delta: float) -> float:
    """Return an upper bound on the probability that an (epsilon, delta)-private mechanism lets so many be right.

    P[Binomial(r, e^eps / (1 + e^eps)) >= v] + 2 m delta max_i sum_{j <= i} P[Binomial = v - j] / i, for v of r guesses
    that are right among m canaries, each of which was in or out by a fair coin.

    Args:
        right: Number v of right guesses.
        guesses: Number r of guesses.
        canaries: Number m of canaries.
        epsilon: Epsilon of the claim.
        delta: Delta of the claim.

    References:
        Steinke, Nasr and Jagielski, "Privacy Auditing with One (1) Training Run", NeurIPS 2023.
    """
    chance = 1 / (1 + math.exp(-epsilon))
    tail = float(binom.sf(right - 1, guesses, chance))
    below = np.arange(right - 1, -1, -1)
    means = binom.pmf(below, guesses, chance).cumsum() / np.arange(1, right + 1)
    return min(1.0, tail + 2 * canaries * delta * float(means.max(initial=0.0)))


def one_run_bound(right: int, guesses: int, canaries: int, *, delta: float, level: float = 0.05) -> OneRunBound:
    """Return the largest epsilon that so many right guesses refute, and the largest that they could.

    Args:
        right: Number of right guesses.
        guesses: Number of guesses.
        canaries: Number of canaries, at least that of the guesses.
        delta: Delta of the claim.
        level: Probability with which the bound may be wrong.
    """
    require_count("guesses", guesses)
    require(0 <= right <= guesses, "right", f"lie in 0..{guesses}", right)
    require(guesses <= canaries, "guesses", f"not exceed the {canaries} canaries", guesses)
    require(0 < level < 1, "level", "lie strictly between 0 and 1", level)

    def refuted(right: int) -> float:
        low, high = 0.0, _HIGHEST
        if p_value(right, guesses, canaries, epsilon=0.0, delta=delta) > level:
            return 0.0
        for _ in range(40):
            middle = (low + high) / 2
            too_likely = p_value(right, guesses, canaries, epsilon=middle, delta=delta) > level
            low, high = (low, middle) if too_likely else (middle, high)
        return low

    return OneRunBound(refuted(right), refuted(guesses))
