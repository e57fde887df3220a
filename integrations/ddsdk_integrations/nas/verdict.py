"""How well a proxy ranks: rank correlations with intervals, regret of what it picks, and what it cost."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata

from ddsdk.foundation import require, require_count, root
from ddsdk_integrations.nas.ranking import Ranking

Numbers = NDArray[np.float64]
Statistic = Callable[[Numbers, Numbers, Numbers], Numbers]


class Estimate(NamedTuple):
    """A figure with its interval.

    Attributes:
        value: Of all candidates; NaN where it is not defined.
        low: Lower end.
        high: Upper end.
    """

    value: float
    low: float
    high: float


@final
@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a ranking is worth.

    Attributes:
        name: Of the proxy.
        candidates: How many are judged.
        spearman: Over all, with its interval.
        kendall: tau-b, in the same way.
        top: How many are the top.
        top_spearman: Over those that are best by the truth.
        top_kendall: In the same way.
        regret: Of the candidate that the proxy puts first.
        regret_of_five: Of the best by the truth among the five that it puts first.
        seconds: Of all candidates.
        before: Before the first one.
    """

    name: str
    candidates: int
    spearman: Estimate
    kendall: Estimate
    top: int
    top_spearman: Estimate
    top_kendall: Estimate
    regret: float
    regret_of_five: float
    seconds: float
    before: float

    @property
    def total(self) -> float:
        """All seconds, those of a distillation included."""
        return self.seconds + self.before

    def to_dict(self) -> dict[str, Any]:
        """Return plain values; what is not defined is None."""
        return {
            name: [None if math.isnan(v) else v for v in value] if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }


def spearman(a: Numbers, b: Numbers, counts: Numbers | None = None) -> Numbers:
    """Return Pearson's correlation of ranks; equal values share the mean of theirs.

    Args:
        a: (N,).
        b: (N,).
        counts: How often each pair is there, (D, N), for D samples at once; None for once each.

    Returns:
        (D,), or a single number; NaN where all values of one are equal.

    Cost: O(D N^2).
    """
    w = np.ones((1, len(a))) if counts is None else counts
    x, y = (_ranks(v, w) for v in (a, b))
    found = _ratio((w * x * y).sum(1), (w * x * x).sum(1), (w * y * y).sum(1))
    return found[0] if counts is None else found


def kendall(a: Numbers, b: Numbers, counts: Numbers | None = None) -> Numbers:
    """Return Kendall's tau-b, which corrects for ties: sum of signs over pairs, by the pairs that are not tied.

    Args:
        a: As for `spearman`, as are the other arguments.
        b: (N,).
        counts: (D, N), or None.

    Returns:
        As `spearman`.
    """
    w = np.ones((1, len(a))) if counts is None else counts
    x, y = (np.sign(v[:, None] - v) for v in (a, b))
    found = _ratio(*((w @ m * w).sum(1) for m in (x * y, x * x, y * y)))
    return found[0] if counts is None else found


def _ranks(values: Numbers, w: Numbers) -> Numbers:
    """Return the rank of each value in each of D samples, less the mean rank, (D, N)."""
    below = (values < values[:, None]) + (values == values[:, None]) / 2
    ranks: Numbers = w @ below.T - w.sum(1, keepdims=True) / 2
    return ranks


def _ratio(shared: Numbers, first: Numbers, second: Numbers) -> Numbers:
    scale = np.sqrt(first * second)
    return np.divide(shared, scale, out=np.full_like(scale, np.nan), where=scale > 0)


def _of_top(statistic: Statistic, share: float) -> Statistic:
    """Return the statistic of the share of each sample that is best by the first argument."""

    def of(a: Numbers, b: Numbers, counts: Numbers) -> Numbers:
        order = np.argsort(-a, kind="stable")
        w = counts[:, order]
        places = top_count(int(w[0].sum()), share)
        left = places - (w.cumsum(1) - w)
        return statistic(a[order], b[order], np.clip(left, 0, w))

    return of


def top_count(candidates: int, share: float) -> int:
    """Return how many a share is, at least 2."""
    return max(2, round(share * candidates))


def bootstrap(
    statistic: Statistic, a: Numbers, b: Numbers, *, rng: torch.Generator, draws: int = 1000, confidence: float = 0.95
) -> Estimate:
    """Return a statistic of pairs with its percentile interval.

    Candidates are drawn with replacement, pairs kept together; draws in which the statistic is not defined are left
    out.

    Args:
        statistic: Of two arrays (N,) and counts (D, N), such as `spearman`.
        a: (N,).
        b: (N,).
        rng: Draws the candidates.
        draws: How many times.
        confidence: Of the interval, such as 0.95.
    """
    require_count("draws", draws)
    require(0 < confidence < 1, "confidence", "lie strictly between 0 and 1", confidence)
    n = len(a)
    index = torch.randint(n, (draws, n), generator=rng)
    counts = torch.zeros(draws, n, dtype=torch.float64).scatter_add_(
        1, index, torch.ones(draws, n, dtype=torch.float64)
    )
    value = float(statistic(a, b, np.ones((1, n)))[0])
    found = statistic(a, b, counts.numpy())
    found = found[~np.isnan(found)]
    if not len(found):
        return Estimate(value, math.nan, math.nan)
    low, high = np.quantile(found, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Estimate(value, float(low), float(high))


def regret(truth: Numbers, scores: Numbers, count: int = 1) -> float:
    """Return the best truth of all, less that of the best among the `count` that scores put first.

    Where several tie for the last places, it is the mean over all ways to choose among them.

    Args:
        truth: (N,).
        scores: (N,).
        count: How many are tried in full; all if there are fewer.
    """
    require_count("count", count)
    count = min(count, len(scores))
    last = np.sort(scores)[::-1][count - 1]
    sure, tied = truth[scores > last], np.sort(truth[scores == last])
    chosen, least = count - len(sure), float(sure.max()) if len(sure) else -math.inf
    # The i-th smallest of t is the best of r chosen ones in C(i, r - 1) of C(t, r) ways, i from 0.
    ways = [math.comb(i, chosen - 1) for i in range(len(tied))]
    expected = sum(w * max(least, float(v)) for w, v in zip(ways, tied, strict=True)) / sum(ways)
    return float(truth.max()) - expected


def judge(
    truth: Ranking,
    proxy: Ranking,
    *,
    seed: int | torch.Generator = 0,
    top: float = 0.2,
    draws: int = 1000,
    confidence: float = 0.95,
    above: float | None = None,
) -> Verdict:
    """Compare a ranking with the truth.

    Args:
        truth: Ranking by the truth, of which means over seeds count.
        proxy: Ranking with a score of every candidate that counts.
        seed: Root of the bootstrap, an integer or a generator. With equal ones all proxies are judged on the same
            draws.
        top: Share of the candidates that are best by the truth.
        draws: Number of samples of the bootstrap, see `bootstrap`.
        confidence: Confidence of the intervals.
        above: Candidates whose truth is not above this are left out, such as those that never learned; None keeps
            all.

    Raises:
        ValueError: If the proxy lacks a candidate, or fewer than 3 count.
    """
    require(0 < top <= 1, "top", "lie in 0 < value <= 1", top)
    a, b = _columns(truth, above, proxy)
    rng = root(seed)

    def told(statistic: Statistic) -> Estimate:
        same = torch.Generator().manual_seed(rng.initial_seed())
        return bootstrap(statistic, a, b, rng=same, draws=draws, confidence=confidence)

    return Verdict(
        name=proxy.name,
        candidates=len(a),
        spearman=told(spearman),
        kendall=told(kendall),
        top=top_count(len(a), top),
        top_spearman=told(_of_top(spearman, top)),
        top_kendall=told(_of_top(kendall, top)),
        regret=regret(a, b),
        regret_of_five=regret(a, b, 5),
        seconds=proxy.seconds,
        before=proxy.before,
    )


def edge(
    truth: Ranking,
    proxy: Ranking,
    rival: Ranking,
    *,
    seed: int | torch.Generator = 0,
    draws: int = 1000,
    confidence: float = 0.95,
    above: float | None = None,
) -> Estimate:
    """Return Spearman of a proxy less that of a rival, over all candidates.

    Both are taken of the same bootstrap samples, so the interval is narrower than those of the two.

    Args:
        truth: Ranking by the truth.
        proxy: Ranking that may be better.
        rival: Ranking that it is compared with.
        seed: Root of the bootstrap, see `judge`.
        draws: Number of samples of the bootstrap.
        confidence: Confidence of the interval.
        above: Lowest truth of the candidates that count, see `judge`; None for all.

    Raises:
        ValueError: As `judge`.
    """
    a, b, other = _columns(truth, above, proxy, rival)

    def gain(a: Numbers, b: Numbers, counts: Numbers) -> Numbers:
        return spearman(a, b, counts) - spearman(a, other, counts)

    same = torch.Generator().manual_seed(root(seed).initial_seed())
    return bootstrap(gain, a, b, rng=same, draws=draws, confidence=confidence)


def _columns(truth: Ranking, above: float | None, *proxies: Ranking) -> list[Numbers]:
    """Return the means of the candidates that count, by the truth and by each proxy."""
    means = [one.means for one in (truth, *proxies)]
    names = [name for name, value in means[0].items() if above is None or value > above]
    missing = [name for name in names if any(name not in scores for scores in means)]
    require(not missing, "proxy", "score all candidates of the truth", f"no score of {missing[:3]}")
    require(len(names) >= 3, "truth", "leave at least 3 candidates", len(names))
    return [np.array([scores[name] for name in names]) for scores in means]


def rank_average(rankings: Sequence[Ranking], name: str = "rank average") -> Ranking:
    """Return the mean of the ranks that several proxies give, which costs what all of them cost.

    Args:
        rankings: Of the same candidates; ranks are of means over seeds, equal ones share theirs.
        name: Of the result.

    Raises:
        ValueError: If there are none, or their candidates differ.
    """
    require(len(rankings) >= 1, "rankings", "hold at least one", len(rankings))
    names = list(rankings[0].scores)
    same = all(set(one.scores) == set(names) for one in rankings)
    require(same, "rankings", "have the same candidates", [len(one.scores) for one in rankings])
    ranks = [rankdata([one.means[n] for n in names]) for one in rankings]
    means: Mapping[str, tuple[float, ...]] = {
        n: (statistics.fmean(float(r[i]) for r in ranks),) for i, n in enumerate(names)
    }
    return Ranking(
        name=name,
        scores=means,
        parameters=rankings[0].parameters,
        seconds=sum(one.seconds for one in rankings),
        before=sum(one.before for one in rankings),
    )
