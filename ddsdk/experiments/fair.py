"""Scores that tell what a set's images are worth, apart from its labels and from augmentation.

They are those of DD-Ranking, computed on accuracies as fractions of 1, for which the published range 0..1 holds; the
package `ddranking` 0.2 puts percents into the same formula, and leaves that range.

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
        hard: That of the set, with a class for each image.
    """
    return _fraction("full", full) - _fraction("hard", hard)


def improvement_over_random(own: float, random: float) -> float:
    """Return what a set gains over random real images of equal size under the same protocol.

    Args:
        own: Accuracy of the set under its own protocol, in 0..1.
        random: That of random real images under it.
    """
    return _fraction("own", own) - _fraction("random", random)


def label_robust_score(recovery: float, improvement: float, *, weight: float = 0.5) -> float:
    """Return LRS = (exp(a) - 1/e) / (e - 1/e) with a = weight * improvement - (1 - weight) * recovery, in 0..1.

    Args:
        recovery: From `hard_label_recovery`, in -1..1.
        improvement: From `improvement_over_random`, in -1..1.
        weight: Of the improvement, in 0..1.
    """
    require(0 <= weight <= 1, "weight", "lie in 0..1", weight)
    return _unit(weight * _gap("improvement", improvement) - (1 - weight) * _gap("recovery", recovery))


def augmentation_robust_score(with_augmentation: float, without: float, *, weight: float = 0.5) -> float:
    """Return ARS: the same map of weight * with_augmentation + (1 - weight) * without, in 0..1.

    Args:
        with_augmentation: Improvement over random images under augmentation, in -1..1.
        without: The same without augmentation.
        weight: Of the first, in 0..1.
    """
    require(0 <= weight <= 1, "weight", "lie in 0..1", weight)
    mixed = weight * _gap("with_augmentation", with_augmentation) + (1 - weight) * _gap("without", without)
    return _unit(mixed)


def _unit(a: float) -> float:
    return (math.exp(a) - math.exp(-1)) / (math.e - math.exp(-1))


def _fraction(name: str, value: float) -> float:
    require(0 <= value <= 1, name, "be an accuracy in 0..1", value)
    return value


def _gap(name: str, value: float) -> float:
    require(-1 <= value <= 1, name, "lie in -1..1", value)
    return value
