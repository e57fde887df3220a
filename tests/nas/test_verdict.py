"""Rank correlations against definitions, intervals against SciPy, regret against all choices, and verdicts."""

from __future__ import annotations

import itertools
import math
import statistics

import numpy as np
import pytest
import scipy.stats

import ddsdk as dd
from ddsdk_integrations.nas import (
    Ranking,
    bootstrap,
    correlation_gain,
    judge_ranking,
    kendall,
    rank_average,
    regret,
    spearman,
)
from ddsdk_integrations.nas.agreement import _over_top


def pairs(n, seed, levels=None):
    rng = np.random.default_rng(seed)
    a = rng.normal(size=n)
    b = a + rng.normal(size=n)
    return (a, b) if levels is None else (np.round(a * levels) / levels, np.round(b * levels) / levels)


def ranking(scores, name="proxy", **more):
    return Ranking(name=name, scores={f"c{i}": (float(v),) for i, v in enumerate(scores)}, **more)


def slow_spearman(a, b):
    """Pearson's correlation of ranks, where equal values share the mean of theirs."""
    x, y = ([sum(v < one for v in values) + sum(v == one for v in values) / 2 for one in values] for values in (a, b))
    return float(np.corrcoef(x, y)[0, 1])


def slow_kendall(a, b):
    """The signs of all pairs, by the pairs that are not tied."""
    signs = [(np.sign(a[i] - a[j]), np.sign(b[i] - b[j])) for i, j in itertools.combinations(range(len(a)), 2)]
    shared, first, second = (
        sum(f(x, y) for x, y in signs) for f in (np.multiply, lambda x, _: x * x, lambda _, y: y * y)
    )
    return float(shared / math.sqrt(first * second))


@pytest.mark.parametrize("levels", [None, 1, 2])
@pytest.mark.parametrize("n", [3, 10, 60])
def test_rank_correlations_are_those_of_their_definitions_with_ties_too(n, levels):
    for seed in range(5):
        a, b = pairs(n, seed, levels)
        for found, slow in ((spearman, slow_spearman), (kendall, slow_kendall)):
            if len(set(a)) > 1 and len(set(b)) > 1:
                assert found(a, b) == pytest.approx(slow(a, b), abs=1e-12)


def test_rank_correlations_of_a_known_case():
    a, b = np.array([1.0, 2, 3, 4, 5]), np.array([2.0, 1, 4, 3, 5])
    # Squared differences of ranks sum to 4: 1 - 6 * 4 / (5 * 24). Two of ten pairs are discordant.
    assert spearman(a, b) == pytest.approx(0.8) and kendall(a, b) == pytest.approx(0.6)


def test_the_top_of_a_sample_is_chosen_anew():
    a, b = pairs(10, 6)
    for drawn in np.sort(np.random.default_rng(2).integers(10, size=(20, 10)), axis=1):
        x, y = a[drawn], b[drawn]
        best = sorted(range(10), key=lambda i: -x[i])[:4]
        expected = scipy.stats.spearmanr(x[best], y[best]).statistic if len(set(x[best])) > 1 else math.nan
        assert _over_top(spearman, 0.4)(x, y) == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_ties_are_shared_and_not_broken_by_the_order():
    truth = np.arange(6.0)
    flat = np.array([0.0, 0, 0, 1, 1, 1])
    assert spearman(truth, flat) == pytest.approx(spearman(truth[::-1], flat[::-1]))
    assert spearman(truth, flat) < 1
    assert math.isnan(spearman(truth, np.ones(6)))
    assert math.isnan(kendall(truth, np.ones(6)))


@pytest.mark.parametrize("statistic", [spearman, kendall])
@pytest.mark.parametrize("levels", [None, 2])
def test_intervals_are_those_of_scipy(statistic, levels):
    a, b = pairs(40, 3, levels)
    ours = bootstrap(statistic, a, b, seed=dd.generator("bootstrap"), draws=3000, confidence=0.9)
    theirs = scipy.stats.bootstrap(
        (a, b),
        statistic,
        paired=True,
        vectorized=False,
        n_resamples=3000,
        confidence_level=0.9,
        method="percentile",
        random_state=np.random.default_rng(0),
    ).confidence_interval
    assert ours.value == statistic(a, b)
    # Both are quantiles of 3000 draws: their standard errors are about 0.004.
    assert ours.low == pytest.approx(theirs.low, abs=0.02)
    assert ours.high == pytest.approx(theirs.high, abs=0.02)


def test_an_interval_covers_as_often_as_it_says():
    true = 6 / math.pi * math.asin(0.5 * math.sqrt(0.5))
    hits = 0
    for seed in range(60):
        a, b = pairs(60, 100 + seed)
        found = bootstrap(spearman, a, b, seed=dd.generator("cover", seed), draws=200, confidence=0.8)
        hits += found.low <= true <= found.high
    # Binomial(60, 0.8): 48 expected, standard deviation 3.1.
    assert 38 <= hits <= 58


def slow_regret(truth, scores, count):
    """The mean over all orders of candidates that no score contradicts."""
    found = []
    for order in itertools.permutations(range(len(truth))):
        if all(scores[i] >= scores[j] for i, j in itertools.pairwise(order)):
            found.append(max(truth) - max(truth[i] for i in order[:count]))
    return statistics.fmean(found)


@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_regret_is_the_mean_over_all_ways_to_break_ties(count):
    rng = np.random.default_rng(0)
    for _ in range(15):
        truth, scores = rng.normal(size=6), rng.integers(0, 3, size=6).astype(float)
        assert regret(truth, scores, count) == pytest.approx(slow_regret(truth, scores, count))


def test_a_verdict_of_the_truth_itself_is_perfect():
    truth = ranking(np.arange(20.0), "truth", seconds=10.0)
    found = judge_ranking(truth, truth, seed=dd.generator(0), draws=50)
    assert found.spearman == pytest.approx((1, 1, 1)) and found.kendall == pytest.approx((1, 1, 1))
    assert found.top == 4 and found.top_spearman.value == pytest.approx(1)
    assert found.regret == 0 and found.regret_of_five == 0
    assert found.candidates == 20 and found.total == 10


def test_a_verdict_looks_at_the_best_by_the_truth():
    truth = np.arange(10.0)
    scores = np.array([0, 1, 2, 3, 4, 5, 9, 8, 7, 6.0])
    verdict = judge_ranking(ranking(truth), ranking(scores), seed=dd.generator(0), top=0.4, draws=50)
    assert verdict.top == 4
    assert verdict.top_spearman.value == pytest.approx(-1) == verdict.top_kendall.value
    assert verdict.spearman.value == pytest.approx(scipy.stats.spearmanr(truth, scores).statistic)
    assert verdict.regret == 3 and verdict.regret_of_five == 0


def test_candidates_that_never_learned_can_be_left_out():
    truth = ranking([0.1, 0.1, 0.1, 0.5, 0.6, 0.7])
    scores = ranking([0.1, 0.1, 0.1, 0.7, 0.6, 0.5])
    every, learned = (judge_ranking(truth, scores, seed=dd.generator(0), draws=50, above=a) for a in (None, 0.2))
    assert every.candidates == 6 and every.spearman.value > 0
    assert learned.candidates == 3 and learned.spearman.value == pytest.approx(-1)
    with pytest.raises(ValueError, match="at least 3"):
        judge_ranking(truth, scores, seed=dd.generator(0), above=0.55)


def test_an_edge_is_the_difference_on_the_same_samples():
    truth, good = pairs(40, 8)
    poor = good + np.random.default_rng(9).normal(size=40)
    rng = dd.generator("edge")
    found = correlation_gain(ranking(truth), ranking(good), ranking(poor), seed=rng, draws=500)
    assert found.value == pytest.approx(spearman(truth, good) - spearman(truth, poor))
    back = correlation_gain(ranking(truth), ranking(poor), ranking(good), seed=rng, draws=500)
    assert (back.value, back.low, back.high) == pytest.approx((-found.value, -found.high, -found.low))
    index = np.random.default_rng(3).integers(40, size=(500, 40))
    slow = [spearman(truth[i], good[i]) - spearman(truth[i], poor[i]) for i in index]
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(slow, [0.025, 0.975])), abs=0.04)
    same = correlation_gain(ranking(truth), ranking(good), ranking(good), seed=rng, draws=50)
    assert same == (0, 0, 0)


def test_all_proxies_are_judged_on_the_same_draws_whatever_the_order():
    truth, scores = ranking(pairs(30, 1)[0]), ranking(pairs(30, 1)[1])
    rng = dd.generator("same")
    first, again = (judge_ranking(truth, scores, seed=rng, draws=100) for _ in range(2))
    assert first == again


def test_what_is_not_defined_is_told_as_none():
    flat = judge_ranking(ranking(np.arange(10.0)), ranking(np.ones(10)), seed=dd.generator(0), draws=20)
    assert flat.to_dict()["spearman"] == [None, None, None]
    assert flat.regret == pytest.approx(4.5)


def test_bad_requests_are_refused():
    truth = ranking(np.arange(10.0))
    with pytest.raises(ValueError, match="score all candidates"):
        judge_ranking(truth, ranking(np.arange(5.0)), seed=dd.generator(0))
    with pytest.raises(ValueError, match="top"):
        judge_ranking(truth, truth, seed=dd.generator(0), top=0)
    with pytest.raises(ValueError, match="draws"):
        judge_ranking(truth, truth, seed=dd.generator(0), draws=0)
    with pytest.raises(ValueError, match="confidence"):
        judge_ranking(truth, truth, seed=dd.generator(0), confidence=1)
    with pytest.raises(ValueError, match="count"):
        regret(np.ones(3), np.ones(3), 0)


def test_rank_averages_weigh_proxies_equally_and_add_their_costs():
    first = ranking([1.0, 2.0, 3.0], seconds=1.0, before=5.0)
    second = ranking([100.0, 300.0, 200.0], seconds=2.0)
    joined = rank_average([first, second])
    assert joined.means == {"c0": 1.0, "c1": 2.5, "c2": 2.5}
    assert (joined.seconds, joined.before) == (3.0, 5.0)
    with pytest.raises(ValueError, match="same candidates"):
        rank_average([first, ranking([1.0])])
    with pytest.raises(ValueError, match="at least one"):
        rank_average([])
