"""Selection of real images: the baselines that a distilled set must beat."""

from __future__ import annotations

from ddsdk.baselines.base import Selection
from ddsdk.baselines.features import Herding, KCenter, KMeans
from ddsdk.baselines.random import Random
from ddsdk.baselines.scores import EL2N, GraNd

__all__ = ["BASELINES", "EL2N", "GraNd", "Herding", "KCenter", "KMeans", "Random", "Selection"]

BASELINES: dict[str, type[Selection]] = {
    "random": Random,
    "herding": Herding,
    "k-center": KCenter,
    "k-means": KMeans,
    "grand": GraNd,
    "el2n": EL2N,
}
"""Name on the command line to baseline."""
