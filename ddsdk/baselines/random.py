"""Random real images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, final

from ddsdk import data, foundation
from ddsdk.baselines.base import Selection

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ddsdk.data import RealData
    from ddsdk.students import MakeStudent


@final
@dataclass(frozen=True, kw_only=True)
class Random(Selection):
    """Random real images of each class: what every method must beat."""

    name: ClassVar[str] = "random"

    def select(
        self,
        real: RealData,
        *,
        make_student: MakeStudent,  # noqa: ARG002
        rng: torch.Generator,
    ) -> list[Tensor]:
        """Draw `ipc` images of each class without replacement."""
        return [
            data.choose(real.index_of_class(c), self.ipc, foundation.derive(rng, c)) for c in range(real.num_classes)
        ]
