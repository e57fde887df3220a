"""Scores of DD-Ranking: the quality of distilled images without the effects of soft labels and augmentation.

Accuracies are fractions in 0..1, for which LRS and ARS have the published range 0..1. The package `ddranking` 0.2
computes the same formulas with percentages, whose results leave this range.

References:
    Li et al., "DD-Ranking: Rethinking the Evaluation of Dataset Distillation", arXiv:2505.13300.
"""

from __future__ import annotations

import math

from ddsdk.foundation import require


def hard_label_recovery(full: float, hard: float) -> float:
    """Return HLR, the accuracy of the full training set minus that of the set with hard labels. Lower is better.

    Args:
        full: Accuracy of networks trained on the full training set, in 0..1.
        hard: Accuracy of networks trained on the distilled images with hard labels, in 0..1.

    Examples:
        >>> hard_label_recovery(0.75, 0.5)
        0.25
    """
    return _within("full", full, 0) - _within("hard", hard, 0)


def improvement_over_random(own: float, random: float) -> float:
    """Return IOR, the accuracy of a distilled set minus that of random real images of equal size.

    Args:
        own: Accuracy of the distilled set under its own protocol, in 0..1.
        random: Accuracy of random real images under the same protocol, in 0..1.

    Examples:
        >>> improvement_over_random(0.75, 0.5)
        0.25
    """
    return _within("own", own, 0) - _within("random", random, 0)


def label_robust_score(recovery: float, improvement: float, *, weight: float = 0.5) -> float:
    """Return LRS = (exp(a) - 1/e) / (e - 1/e) with a = weight * improvement - (1 - weight) * recovery, in 0..1.

    Args:
        recovery: Value of `hard_label_recovery`, in -1..1.
        improvement: Value of `improvement_over_random`, in -1..1.
        weight: Weight of the improvement, in 0..1.

    Examples:
        >>> label_robust_score(-1.0, 1.0)
        1.0
    """
    return _mixed(_within("improvement", improvement, -1), -_within("recovery", recovery, -1), weight)


def augmentation_robust_score(with_augmentation: float, without: float, *, weight: float = 0.5) -> float:
    """Return ARS = (exp(a) - 1/e) / (e - 1/e), in 0..1, with a = weight * with_augmentation + (1 - weight) * without.

    Args:
        with_augmentation: Value of `improvement_over_random` with augmentation, in -1..1.
        without: Value of `improvement_over_random` without augmentation, in -1..1.
        weight: Weight of the improvement with augmentation, in 0..1.

    Examples:
        >>> augmentation_robust_score(1.0, 1.0)
        1.0
    """
    return _mixed(_within("with_augmentation", with_augmentation, -1), _within("without", without, -1), weight)


def _mixed(first: float, second: float, weight: float) -> float:
    mixed = _within("weight", weight, 0) * first + (1 - weight) * second
    return (math.exp(mixed) - math.exp(-1)) / (math.e - math.exp(-1))


def _within(name: str, value: float, lower_bound: int) -> float:
    require(lower_bound <= value <= 1, name, f"lie in {lower_bound}..1", value)
    return value
