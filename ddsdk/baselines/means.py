"""Means of real images: what a distilled set of very few images must beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, final

from ddsdk import synthetic
from ddsdk.baselines.base import Baseline

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ddsdk.data import RealData
    from ddsdk.students import MakeStudent


@final
@dataclass(frozen=True, kw_only=True)
class Means(Baseline):
    """The means of `ipc` clusters of each class by pixels; at ipc 1 the mean image of each class.

    They are no real images, and say least about any single one of them. At one image for each class they beat
    every choice of real images.
    """

    name: ClassVar[str] = "means"

    def images(self, real: RealData, *, make_student: MakeStudent, rng: torch.Generator) -> Tensor:  # noqa: ARG002
        """Return the means."""
        return synthetic.STARTS["means"](real, self.ipc, rng)
