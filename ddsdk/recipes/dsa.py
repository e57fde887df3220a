"""DSA: gradient matching under differentiable siamese augmentation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from ddsdk.recipes.gradient import GradientMatching


@final
@dataclass(frozen=True, kw_only=True)
class DSA(GradientMatching):
    """Differentiable siamese augmentation: DC whose two sides see the same random augmentation.

    One operation with one set of numbers for each class and step, applied to all its real and synthetic
    images; the students and the evaluation train with the same operations, drawn for each image. Images start
    as random real ones.

    Differences from the published algorithm: none in the steps. Loops are interpolated for an ipc that the paper
    does not list. The evaluation keeps the momentum at the learning-rate decay, where the authors' code builds a
    new optimizer.

    References:
        Zhao and Bilen, "Dataset Condensation with Differentiable Siamese Augmentation", ICML 2021,
        arXiv:2102.08259.
    """

    name: ClassVar[str] = "dsa"
