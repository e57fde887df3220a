"""The baselines that a distilled set must beat: chosen real images, and their means."""

from __future__ import annotations

from ddsdk.baselines.base import Baseline, Selection
from ddsdk.baselines.features import Herding, KCenter, KMeans
from ddsdk.baselines.means import Means
from ddsdk.baselines.random import Random
from ddsdk.baselines.scores import EL2N, GraNd

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
