"""The scores of DD-Ranking against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest

from ddsdk.experiments.dd_ranking import (
    augmentation_robust_score,
    hard_label_recovery,
    improvement_over_random,
    label_robust_score,
)


def test_scores_are_those_of_the_formula():
    assert hard_label_recovery(0.9, 0.6) == pytest.approx(0.3)
    assert improvement_over_random(0.7, 0.5) == pytest.approx(0.2)
    a = 0.5 * 0.2 - 0.5 * 0.3
    wanted = (math.exp(a) - 1 / math.e) / (math.e - 1 / math.e)
    assert label_robust_score(0.3, 0.2) == pytest.approx(wanted)
    assert label_robust_score(0.3, 0.2, weight=1.0) == pytest.approx(
        (math.exp(0.2) - 1 / math.e) / (math.e - 1 / math.e)
    )
    b = 0.25 * 0.2 + 0.75 * 0.1
    assert augmentation_robust_score(0.2, 0.1, weight=0.25) == pytest.approx(
        (math.exp(b) - 1 / math.e) / (math.e - 1 / math.e)
    )


def test_scores_span_zero_to_one():
    """Fractions keep the published range, which percents leave: a = -10 would be 0 and a = 5 would be 63."""
    assert label_robust_score(1.0, -1.0) == pytest.approx(0.0)
    assert label_robust_score(-1.0, 1.0) == pytest.approx(1.0)
    assert augmentation_robust_score(-1.0, -1.0) == pytest.approx(0.0)
    assert augmentation_robust_score(1.0, 1.0) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("score", "message"),
    [
        (lambda: hard_label_recovery(76.4, 0.5), "full must lie in 0..1, got 76.4"),
        (lambda: improvement_over_random(0.5, -0.1), "random must lie in 0..1, got -0.1"),
        (lambda: label_robust_score(20.0, 0.1), "recovery must lie in -1..1, got 20.0"),
        (lambda: label_robust_score(0.1, 0.1, weight=2.0), "weight must lie in 0..1"),
        (lambda: augmentation_robust_score(0.1, float("nan")), "without must lie in -1..1"),
        (lambda: augmentation_robust_score(0.1, 0.1, weight=-1.0), "weight must lie in 0..1"),
    ],
)
def test_percents_and_other_numbers_out_of_range_are_refused(score, message):
    with pytest.raises(ValueError, match=message):
        score()
