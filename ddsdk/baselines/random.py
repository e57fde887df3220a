"""Random real images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, final

import ddsdk as dd
from ddsdk.baselines.base import Selection

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ddsdk.students.fresh import MakeStudent

__all__ = ["Random"]


@final
@dataclass(frozen=True, kw_only=True)
class Random(Selection):
    """Random real images of each class: what every method must beat."""

    name: ClassVar[str] = "random"

    def select(
        self,
        real: dd.RealData,
        *,
        make_student: MakeStudent,  # noqa: ARG002
        rng: torch.Generator,
    ) -> list[Tensor]:
        """Draw `ipc` images of each class without replacement."""
        return [
            dd.choose(real.index_of_class(c), self.ipc, dd.derive(rng, c)) for c in range(real.num_classes)
        ]
