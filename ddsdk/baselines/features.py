"""Coresets by features: herding, k-center and k-means."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, final

from ddsdk import data, foundation, training
from ddsdk.baselines.base import Selection, trained_student
from ddsdk.foundation import NonNegativeInt

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from ddsdk.data import RealData
    from ddsdk.students import MakeStudent


@dataclass(frozen=True, kw_only=True)
class _ByFeatures(Selection):
    """Select by the pixels of the images, or by a student's embedding of them.

    Attributes:
        student_epochs: Epochs of a student on all real images, whose embedding is used; 0 for pixels in the value
            space.
    """

    student_epochs: NonNegativeInt = 0

    @abstractmethod
    def choose(self, features: Tensor, rng: Generator) -> Tensor:
        """Return `ipc` distinct positions in `features`, (N, F)."""

    def select(self, real: RealData, *, make_student: MakeStudent, rng: Generator) -> list[Tensor]:
        """Choose in the feature space, class by class."""
        student = None
        if self.student_epochs:
            student = trained_student(real, self.student_epochs, make_student=make_student, rng=rng)
        picks = []
        for c in range(real.num_classes):
            index = real.index_of_class(c)
            x = real.batch(index).x
            features = x.flatten(1) if student is None else training.embeddings(student, x)
            picks.append(index[self.choose(features, foundation.derive(rng, c))])
        return picks


@final
@dataclass(frozen=True, kw_only=True)
class Herding(_ByFeatures):
    """Greedy choice whose mean follows the class mean.

    Differences from the published algorithm: features are pixels by default; the papers of the field herd the
    embedding of a trained network, which `student_epochs` above 0 gives.

    References:
        Welling, "Herding dynamical weights to learn", ICML 2009.
    """

    name: ClassVar[str] = "herding"

    def choose(self, features: Tensor, rng: Generator) -> Tensor:  # noqa: ARG002
        """Choose by herding."""
        return data.herding(features, self.ipc)


@final
@dataclass(frozen=True, kw_only=True)
class KCenter(_ByFeatures):
    """Greedy choice of the item farthest from the chosen ones.

    Differences from the published algorithm: features are pixels by default; the paper takes the embedding of a
    trained network, which `student_epochs` above 0 gives.

    References:
        Sener and Savarese, "Active Learning for Convolutional Neural Networks", ICLR 2018.
    """

    name: ClassVar[str] = "k-center"

    def choose(self, features: Tensor, rng: Generator) -> Tensor:  # noqa: ARG002
        """Choose by k-center."""
        return data.k_center(features, self.ipc)


@final
@dataclass(frozen=True, kw_only=True)
class KMeans(_ByFeatures):
    """The real image nearest each of `ipc` k-means centres of the class."""

    name: ClassVar[str] = "k-means"

    def choose(self, features: Tensor, rng: Generator) -> Tensor:
        """Choose by k-means."""
        return data.k_means_nearest(features, self.ipc, rng)
