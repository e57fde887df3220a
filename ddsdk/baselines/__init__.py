"""Baselines without distillation: coresets of real images, and class means."""

from __future__ import annotations

from ddsdk.baselines.base import Baseline, Selection
from ddsdk.baselines.features import Herding, KCenter, KMeans, Moderate
from ddsdk.baselines.scores import EL2N, GraNd
from ddsdk.baselines.simple import Means, Random

__all__ = [
    "BASELINES",
    "EL2N",
    "Baseline",
    "GraNd",
    "Herding",
    "KCenter",
    "KMeans",
    "Means",
    "Moderate",
    "Random",
    "Selection",
]

BASELINES: dict[str, type[Baseline]] = {
    "random": Random,
    "herding": Herding,
    "k-center": KCenter,
    "k-means": KMeans,
    "moderate": Moderate,
    "means": Means,
    "grand": GraNd,
    "el2n": EL2N,
}
"""Baselines by their names on the command line."""
