"""Judgement of rankings: rank correlations with intervals, regret of the picks, and cost."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import ConstantInputWarning, kendalltau, rankdata, spearmanr

from ddsdk.foundation import require, require_count, root
from ddsdk_integrations.nas.ranking import Ranking

Numbers = NDArray[np.float64]
Statistic = Callable[..., float]
"""Function of one array (N,) or several, whose entries belong together."""


class Estimate(NamedTuple):
    """A figure with its interval.

    Attributes:
        value: Figure of all candidates; NaN where it is not defined.
        low: Lower end.
        high: Upper end.
    """

    value: float
    low: float
    high: float


@final
@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Worth and cost of a ranking.

    Attributes:
        name: Name of the proxy.
        candidates: Number of judged candidates.
        spearman: Spearman's correlation over all.
        kendall: Kendall's tau-b over all.
        top: Number of candidates that are the top.
        top_spearman: Spearman's correlation over those that are best by the truth.
        top_kendall: Kendall's tau-b over the same.
        regret: Regret of the candidate that the proxy puts first.
        regret_of_five: Regret of the best by the truth among the five that the proxy puts first.
        seconds: Seconds of all candidates.
        before: Seconds before the first candidate.
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
        """Return plain values; None stands for what is not defined."""
        return {
            name: [None if math.isnan(v) else v for v in value] if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }


def spearman(a: Numbers, b: Numbers) -> float:
    """Return Spearman's rank correlation of two arrays (N,); NaN where all values of one are equal."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConstantInputWarning)
        return float(spearmanr(a, b).statistic)


def kendall(a: Numbers, b: Numbers) -> float:
    """Return Kendall's tau-b of two arrays (N,), which corrects for ties; NaN where all values of one are equal."""
    return float(kendalltau(a, b).statistic)


def _of_top(statistic: Statistic, share: float) -> Statistic:
    """Return the statistic of the share of a sample that is best by the first array."""

    def of(a: Numbers, b: Numbers) -> float:
        best = np.argsort(-a, kind="stable")[: _top_count(len(a), share)]
        return statistic(a[best], b[best])

    return of


def _top_count(candidates: int, share: float) -> int:
    return max(2, round(share * candidates))


def bootstrap(
    statistic: Statistic,
    *columns: Numbers,
    seed: int | torch.Generator = 0,
    draws: int = 1000,
    confidence: float = 0.95,
) -> Estimate:
    """Return a statistic with its percentile interval.

    Candidates are drawn with replacement. Draws in which the statistic is not defined are left out.

    Args:
        statistic: Function of the columns, such as `spearman`.
        *columns: Values of the candidates, (N,) each.
        seed: Root of the draws: an integer, or a generator, which is not advanced.
        draws: Number of samples.
        confidence: Confidence of the interval, such as 0.95.
    """
    require_count("draws", draws)
    require(0 < confidence < 1, "confidence", "lie strictly between 0 and 1", confidence)
    value, n = statistic(*columns), len(columns[0])
    rng = torch.Generator().manual_seed(root(seed).initial_seed())
    # Sorted, so that the order of the candidates decides among equal ones in every sample.
    index = torch.randint(n, (draws, n), generator=rng).sort(1).values.numpy()
    found = np.array([statistic(*(column[drawn] for column in columns)) for drawn in index])
    found = found[~np.isnan(found)]
    if not len(found):
        return Estimate(value, math.nan, math.nan)
    low, high = np.quantile(found, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Estimate(value, float(low), float(high))


def regret(truth: Numbers, scores: Numbers, count: int = 1) -> float:
    """Return the best truth of all, less that of the best among the `count` that scores put first.

    Where several tie for the last places, it is the mean over all ways to choose among them.

    Args:
        truth: True value of each candidate, (N,).
        scores: Score of each candidate, (N,).
        count: Number of candidates that are tried in full; all if there are fewer.
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
        above: Lower bound of the truth: candidates that are not above it are left out, such as those that never
            learned; None keeps all.

    Raises:
        ValueError: If the proxy lacks a candidate, or fewer than 3 count.

    Cost: four statistics of SciPy for each draw, about a second for 1000.
    """
    require(0 < top <= 1, "top", "lie in 0 < value <= 1", top)
    a, b = _columns(truth, above, proxy)

    def told(statistic: Statistic) -> Estimate:
        return bootstrap(statistic, a, b, seed=seed, draws=draws, confidence=confidence)

    return Verdict(
        name=proxy.name,
        candidates=len(a),
        spearman=told(spearman),
        kendall=told(kendall),
        top=_top_count(len(a), top),
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
        above: Lower bound of the truth, see `judge`; None keeps all.

    Raises:
        ValueError: If a ranking lacks a candidate, or fewer than 3 count.
    """

    def gain(a: Numbers, b: Numbers, other: Numbers) -> float:
        return spearman(a, b) - spearman(a, other)

    return bootstrap(gain, *_columns(truth, above, proxy, rival), seed=seed, draws=draws, confidence=confidence)


def _columns(truth: Ranking, above: float | None, *proxies: Ranking) -> list[Numbers]:
    """Return the means of the candidates that count, by the truth and by each proxy."""
    means = [one.means for one in (truth, *proxies)]
    names = [name for name, value in means[0].items() if above is None or value > above]
    missing = [name for name in names if any(name not in scores for scores in means)]
    require(not missing, "proxy", "score all candidates of the truth", f"no score of {missing[:3]}")
    require(len(names) >= 3, "truth", "leave at least 3 candidates", len(names))
    return [np.array([scores[name] for name in names]) for scores in means]


def rank_average(rankings: Sequence[Ranking], name: str = "rank average") -> Ranking:
    """Return the mean of the ranks that several proxies give; its cost is that of all of them.

    Args:
        rankings: Rankings of the same candidates; ranks are of means over seeds, equal ones share theirs.
        name: Name of the result.

    Raises:
        ValueError: If there are none, or their candidates differ.
    """
    require(len(rankings) >= 1, "rankings", "hold at least one", len(rankings))
    names = list(rankings[0].scores)
    same = all(set(one.scores) == set(names) for one in rankings)
    require(same, "rankings", "have the same candidates", [len(one.scores) for one in rankings])
    ranks = np.mean([rankdata([one.means[n] for n in names]) for one in rankings], axis=0)
    return Ranking(
        name=name,
        scores={n: (float(value),) for n, value in zip(names, ranks, strict=True)},
        parameters=rankings[0].parameters,
        seconds=sum(one.seconds for one in rankings),
        before=sum(one.before for one in rankings),
    )
