"""Random real images, and means of real images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, final

from ddsdk import data, foundation, synthetic
from ddsdk.baselines.base import Baseline, Selection

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from ddsdk.students import MakeStudent


@final
@dataclass(frozen=True, kw_only=True)
class Random(Selection):
    """Random real images of each class: what every method must beat."""

    name: ClassVar[str] = "random"

    def select(self, real: data.RealData, *, make_student: MakeStudent, rng: Generator) -> list[Tensor]:  # noqa: ARG002
        """Draw `ipc` images of each class without replacement."""
        indices = map(real.index_of_class, range(real.num_classes))
        return [data.choose(index, self.ipc, foundation.derive(rng, c)) for c, index in enumerate(indices)]


@final
@dataclass(frozen=True, kw_only=True)
class Means(Baseline):
    """The means of `ipc` clusters of each class by pixels; at ipc 1 the mean image of each class.

    They are no real images. At one image for each class they beat every choice of real images.
    """

    name: ClassVar[str] = "means"

    def images(self, real: data.RealData, *, make_student: MakeStudent, rng: Generator) -> Tensor:  # noqa: ARG002
        """Return the means."""
        return synthetic.STARTS["means"](real, self.ipc, rng)
