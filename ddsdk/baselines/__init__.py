"""The baselines that a distilled set must beat: chosen real images, and their means."""

from __future__ import annotations

from ddsdk.baselines.base import Baseline, Selection
from ddsdk.baselines.features import Herding, KCenter, KMeans
from ddsdk.baselines.scores import EL2N, GraNd
from ddsdk.baselines.simple import Means, Random

__all__ = ["BASELINES", "EL2N", "Baseline", "GraNd", "Herding", "KCenter", "KMeans", "Means", "Random", "Selection"]

BASELINES: dict[str, type[Baseline]] = {
    "random": Random,
    "herding": Herding,
    "k-center": KCenter,
    "k-means": KMeans,
    "means": Means,
    "grand": GraNd,
    "el2n": EL2N,
}
"""Name on the command line to baseline."""
