"""Random real images, and cluster means of real images."""

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
    """Random real images of each class, the baseline of every distillation method.

    Examples:
        >>> import ddsdk
        >>> real = ddsdk.load("digits")
        >>> len(ddsdk.distill(ddsdk.baselines.Random(ipc=2), real))
        20
    """

    name: ClassVar[str] = "random"

    def select(self, real: data.RealData, *, make_student: MakeStudent, rng: Generator) -> list[Tensor]:  # noqa: ARG002
        """Return the positions of `ipc` random images of each class, drawn without replacement."""
        indices = map(real.index_of_class, range(real.num_classes))
        return [data.sample_indices(index, self.ipc, foundation.derive(rng, c)) for c, index in enumerate(indices)]


@final
@dataclass(frozen=True, kw_only=True)
class Means(Baseline):
    """Means of `ipc` k-means clusters of the pixels of each class; at ipc 1 the mean image of each class.

    The means are not real images. At one image per class they are more accurate than any selection of real images.

    Examples:
        >>> import ddsdk
        >>> real = ddsdk.load("digits")
        >>> len(ddsdk.distill(ddsdk.baselines.Means(ipc=2), real))
        20
    """

    name: ClassVar[str] = "means"

    def images(self, real: data.RealData, *, make_student: MakeStudent, rng: Generator) -> Tensor:  # noqa: ARG002
        """Return the cluster means, (K*ipc, C, H, W) in the value space, sorted by class."""
        return synthetic.STARTS["means"](real, self.ipc, rng)
