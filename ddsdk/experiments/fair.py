"""Scores of DD-Ranking: the worth of a set's images, apart from its labels and from augmentation.

They are computed on accuracies as fractions of 1, for which the published range 0..1 holds; the package `ddranking`
0.2 puts percents into the same formula, and leaves that range.

References:
    Li et al., "DD-Ranking: Rethinking the Evaluation of Dataset Distillation", arXiv:2505.13300.
"""

from __future__ import annotations

import math

from ddsdk.foundation import require


def hard_label_recovery(full: float, hard: float) -> float:
    """Return what class labels lose against all of the training data: lower is better.

    Args:
        full: Accuracy of networks that are trained on all of the data, in 0..1.
        hard: Accuracy of the set, with a class for each image.
    """
    return _within("full", full, 0) - _within("hard", hard, 0)


def improvement_over_random(own: float, random: float) -> float:
    """Return what a set gains over random real images of equal size under the same protocol.

    Args:
        own: Accuracy of the set under its own protocol, in 0..1.
        random: Accuracy of random real images under it.
    """
    return _within("own", own, 0) - _within("random", random, 0)


def label_robust_score(recovery: float, improvement: float, *, weight: float = 0.5) -> float:
    """Return LRS = (exp(a) - 1/e) / (e - 1/e) with a = weight * improvement - (1 - weight) * recovery, in 0..1.

    Args:
        recovery: Value of `hard_label_recovery`, in -1..1.
        improvement: Value of `improvement_over_random`, in -1..1.
        weight: Weight of the improvement, in 0..1.
    """
    return _mixed(_within("improvement", improvement, -1), -_within("recovery", recovery, -1), weight)


def augmentation_robust_score(with_augmentation: float, without: float, *, weight: float = 0.5) -> float:
    """Return ARS: the same map of weight * with_augmentation + (1 - weight) * without, in 0..1.

    Args:
        with_augmentation: Improvement over random images under augmentation, in -1..1.
        without: Improvement without augmentation.
        weight: Weight of the first, in 0..1.
    """
    return _mixed(_within("with_augmentation", with_augmentation, -1), _within("without", without, -1), weight)


def _mixed(first: float, second: float, weight: float) -> float:
    mixed = _within("weight", weight, 0) * first + (1 - weight) * second
    return (math.exp(mixed) - math.exp(-1)) / (math.e - math.exp(-1))


def _within(name: str, value: float, least: int) -> float:
    require(least <= value <= 1, name, f"lie in {least}..1", value)
    return value
