"""DC: dataset condensation with gradient matching."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from ddsdk.recipes.gradient import GradientMatching


@final
@dataclass(frozen=True, kw_only=True)
class DC(GradientMatching):
    """Dataset condensation: match the gradients that real and synthetic images of a class give a student.

    min_S sum_t sum_c D(grad L(S_c; theta_t), grad L(T_c; theta_t)), D the sum over filters of 1 - cosine, along
    theta_t of a network that trains on S itself (eq. 9 and 10). Images start as noise; there is no augmentation.

    Differences from the published algorithm: none in the steps. Loops are interpolated for an ipc that the paper
    does not list. The authors' code trains evaluation networks on MNIST under random crop, scaling and rotation;
    here nothing is augmented unless `augmentation` says so. The evaluation keeps the momentum at
    the learning-rate decay, where the authors' code builds a new optimizer.

    References:
        Zhao, Mopuri and Bilen, "Dataset Condensation with Gradient Matching", ICLR 2021, arXiv:2006.05929.
    """

    name: ClassVar[str] = "dc"
    start: str = "noise"
    augmentation: str | None = ""
