"""Quality of a ranking: rank correlations with bootstrap intervals, regret, and cost."""

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

from ddsdk.foundation import as_generator, require, require_count
from ddsdk_integrations.nas.ranking import Ranking

Numbers = NDArray[np.float64]
Statistic = Callable[..., float]
"""Function of one or several arrays (N,), in which entry i belongs to candidate i."""


class Interval(NamedTuple):
    """A statistic with its confidence interval.

    Attributes:
        value: Statistic over all candidates; NaN if it is not defined.
        low: Lower end of the interval.
        high: Upper end of the interval.
    """

    value: float
    low: float
    high: float


@final
@dataclass(frozen=True, kw_only=True)
class RankingReport:
    """Quality and cost of a ranking by a proxy, compared with the true ranking.

    Attributes:
        name: Name of the proxy in tables.
        candidates: Number of candidates in the comparison.
        spearman: Spearman's rank correlation over all candidates.
        kendall: Kendall's tau-b over all candidates.
        top: Number of candidates in the true top.
        top_spearman: Spearman's rank correlation over the true top.
        top_kendall: Kendall's tau-b over the true top.
        regret: Regret of the candidate with the highest proxy score.
        regret_of_five: Regret of the truly best of the five candidates with the highest proxy scores.
        seconds: Seconds for the scores of all candidates.
        before: Seconds before the first score, such as those of a distillation.
    """

    name: str
    candidates: int
    spearman: Interval
    kendall: Interval
    top: int
    top_spearman: Interval
    top_kendall: Interval
    regret: float
    regret_of_five: float
    seconds: float
    before: float

    @property
    def total(self) -> float:
        """All seconds, including those of a distillation."""
        return self.seconds + self.before

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values; None stands for NaN."""
        return {
            name: [None if math.isnan(v) else v for v in value] if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }


def spearman(a: Numbers, b: Numbers) -> float:
    """Return Spearman's rank correlation of two arrays (N,); NaN if all values of an array are equal.

    Examples:
        >>> import numpy as np
        >>> from ddsdk_integrations.nas import spearman
        >>> round(spearman(np.array([1.0, 2.0, 3.0]), np.array([3.0, 2.0, 1.0])), 3)
        -1.0
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConstantInputWarning)
        return float(spearmanr(a, b).statistic)


def kendall(a: Numbers, b: Numbers) -> float:
    """Return Kendall's tau-b of two arrays (N,), which corrects for ties; NaN if all values of an array are equal.

    Examples:
        >>> import numpy as np
        >>> from ddsdk_integrations.nas import kendall
        >>> round(kendall(np.array([1.0, 2.0, 3.0]), np.array([3.0, 2.0, 1.0])), 3)
        -1.0
    """
    return float(kendalltau(a, b).statistic)


def _over_top(statistic: Statistic, share: float) -> Statistic:
    """Return the statistic over the top share of the candidates, by the values of the first array."""

    def top_statistic(a: Numbers, b: Numbers) -> float:
        best = np.argsort(-a, kind="stable")[: _top_count(len(a), share)]
        return statistic(a[best], b[best])

    return top_statistic


def _top_count(candidates: int, share: float) -> int:
    return max(2, round(share * candidates))


def bootstrap(
    statistic: Statistic,
    *columns: Numbers,
    seed: int | torch.Generator = 0,
    draws: int = 1000,
    confidence: float = 0.95,
) -> Interval:
    """Return a statistic with its bootstrap percentile interval.

    Candidates are drawn with replacement. Samples in which the statistic is not defined are left out; if there are no
    others, the ends of the interval are NaN.

    Args:
        statistic: Function of the columns, such as `spearman`.
        *columns: Values of the candidates, (N,) each.
        seed: Root of the samples: an integer, or a generator, which is not advanced.
        draws: Number of bootstrap samples, at least 1.
        confidence: Confidence of the interval, between 0 and 1.

    Examples:
        >>> import numpy as np
        >>> from ddsdk_integrations.nas import bootstrap, spearman
        >>> round(bootstrap(spearman, np.arange(9.0), np.arange(9.0), draws=20).value, 3)
        1.0
    """
    require_count("draws", draws)
    require(0 < confidence < 1, "confidence", "lie strictly between 0 and 1", confidence)
    value, n = statistic(*columns), len(columns[0])
    rng = torch.Generator().manual_seed(as_generator(seed).initial_seed())
    # Sorted indices: ties are broken by the order of the candidates in every sample, as in the whole.
    index = torch.randint(n, (draws, n), generator=rng).sort(1).values.numpy()
    values = np.array([statistic(*(column[sample] for column in columns)) for sample in index])
    values = values[~np.isnan(values)]
    if not len(values):
        return Interval(value, math.nan, math.nan)
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(value, float(low), float(high))


def regret(truth: Numbers, scores: Numbers, count: int = 1) -> float:
    """Return the regret of a ranking: the best true value of all, minus the best among the `count` highest scores.

    If candidates tie for the last places, the result is the mean over all choices among them.

    Args:
        truth: True value of each candidate, (N,).
        scores: Score of each candidate, (N,).
        count: Number of picks, at least 1; more than N picks are all candidates.

    Examples:
        >>> import numpy as np
        >>> from ddsdk_integrations.nas import regret
        >>> regret(np.array([4.0, 2.0, 1.0]), np.array([0.1, 0.9, 0.5]))
        2.0
    """
    require_count("count", count)
    count = min(count, len(scores))
    last = np.sort(scores)[::-1][count - 1]
    certain, tied = truth[scores > last], np.sort(truth[scores == last])
    places, certain_best = count - len(certain), float(certain.max()) if len(certain) else -math.inf
    # The i-th smallest of t tied values, i from 0, is the best of r chosen ones in C(i, r - 1) of C(t, r) choices.
    ways = [math.comb(i, places - 1) for i in range(len(tied))]
    expected = sum(w * max(certain_best, float(v)) for w, v in zip(ways, tied, strict=True)) / sum(ways)
    return float(truth.max()) - expected


def judge_ranking(
    truth: Ranking,
    proxy: Ranking,
    *,
    seed: int | torch.Generator = 0,
    top: float = 0.2,
    draws: int = 1000,
    confidence: float = 0.95,
    above: float | None = None,
) -> RankingReport:
    """Return the quality of a proxy's ranking, compared with the true ranking.

    Scores are means over seeds. A proxy without a score of some candidate, or fewer than 3 candidates, raises
    ValueError.

    Args:
        truth: Ranking by the true values, such as accuracies after full training.
        proxy: Ranking by the proxy, with a score of each compared candidate.
        seed: Root of the bootstrap, an integer or a generator. With equal seeds, all proxies share the samples.
        top: Share of the candidates in the true top, in 0 < value <= 1; at least 2 candidates.
        draws: Number of bootstrap samples, see `bootstrap`.
        confidence: Confidence of the intervals, between 0 and 1.
        above: Lower bound of the true values; candidates at or below it are left out, such as networks that did not
            learn. None keeps all.

    Cost: four SciPy statistics for each sample, about a second for 1000 samples.

    Examples:
        >>> from ddsdk_integrations.nas import Ranking, judge_ranking
        >>> truth = Ranking(name="truth", scores={name: (i,) for i, name in enumerate("abcde")})
        >>> proxy = Ranking(name="proxy", scores={name: (i,) for i, name in enumerate("abced")})
        >>> judge_ranking(truth, proxy, draws=20).regret
        1.0
    """
    require(0 < top <= 1, "top", "lie in 0 < value <= 1", top)
    a, b = _columns(truth, above, proxy)

    def interval(statistic: Statistic) -> Interval:
        return bootstrap(statistic, a, b, seed=seed, draws=draws, confidence=confidence)

    return RankingReport(
        name=proxy.name,
        candidates=len(a),
        spearman=interval(spearman),
        kendall=interval(kendall),
        top=_top_count(len(a), top),
        top_spearman=interval(_over_top(spearman, top)),
        top_kendall=interval(_over_top(kendall, top)),
        regret=regret(a, b),
        regret_of_five=regret(a, b, 5),
        seconds=proxy.seconds,
        before=proxy.before,
    )


def correlation_gain(
    truth: Ranking,
    proxy: Ranking,
    baseline: Ranking,
    *,
    seed: int | torch.Generator = 0,
    draws: int = 1000,
    confidence: float = 0.95,
    above: float | None = None,
) -> Interval:
    """Return Spearman's correlation of a proxy with the truth, minus that of a baseline, with an interval.

    Both correlations use the same bootstrap samples, so the interval is narrower than a difference of two intervals.

    Args:
        truth: Ranking by the true values.
        proxy: Ranking by the proxy under test.
        baseline: Ranking by the baseline, such as `ParameterCount`.
        seed: Root of the bootstrap, see `judge_ranking`.
        draws: Number of bootstrap samples, see `bootstrap`.
        confidence: Confidence of the interval, between 0 and 1.
        above: Lower bound of the true values, see `judge_ranking`; None keeps all candidates.

    Examples:
        >>> from ddsdk_integrations.nas import Ranking, correlation_gain
        >>> truth = Ranking(name="truth", scores={name: (i,) for i, name in enumerate("abcde")})
        >>> size = Ranking(name="size", scores={name: (-i,) for i, name in enumerate("abcde")})
        >>> round(correlation_gain(truth, truth, size, draws=20).value, 3)
        2.0
    """

    def gain(a: Numbers, b: Numbers, other: Numbers) -> float:
        return spearman(a, b) - spearman(a, other)

    return bootstrap(gain, *_columns(truth, above, proxy, baseline), seed=seed, draws=draws, confidence=confidence)


def _columns(truth: Ranking, above: float | None, *proxies: Ranking) -> list[Numbers]:
    """Return mean scores of the candidates above the bound, (N,): true values first, then those of each proxy."""
    means = [ranking.means for ranking in (truth, *proxies)]
    names = [name for name, value in means[0].items() if above is None or value > above]
    missing = [name for name in names if any(name not in scores for scores in means)]
    require(not missing, "proxy", "score all candidates of the truth", f"no score of {missing[:3]}")
    require(len(names) >= 3, "truth", "leave at least 3 candidates", len(names))
    return [np.array([scores[name] for name in names]) for scores in means]


def rank_average(rankings: Sequence[Ranking], name: str = "rank average") -> Ranking:
    """Return an ensemble of proxies: the mean rank of each candidate. Its cost is the sum of all costs.

    Ranks are those of means over seeds; equal means share their mean rank.

    Args:
        rankings: Rankings of the same candidates, at least one.
        name: Name of the ensemble in tables.

    Examples:
        >>> from ddsdk_integrations.nas import Ranking, rank_average
        >>> rankings = [Ranking(name=n, scores={"a": (0.2,), "b": (0.4,)}) for n in ("x", "y")]
        >>> rank_average(rankings).best()
        ['b']
    """
    require(len(rankings) >= 1, "rankings", "hold at least one ranking", len(rankings))
    names = list(rankings[0].scores)
    comparable = all(set(ranking.scores) == set(names) for ranking in rankings)
    require(comparable, "rankings", "have the same candidates", [len(ranking.scores) for ranking in rankings])
    ranks = np.mean([rankdata([ranking.means[n] for n in names]) for ranking in rankings], axis=0)
    return Ranking(
        name=name,
        scores={n: (float(value),) for n, value in zip(names, ranks, strict=True)},
        parameters=rankings[0].parameters,
        seconds=sum(ranking.seconds for ranking in rankings),
        before=sum(ranking.before for ranking in rankings),
    )
