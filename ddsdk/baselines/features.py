"""Coresets that are selected in a feature space: herding, k-center, k-means and moderate distances."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, final

from ddsdk import data, foundation, training
from ddsdk.baselines.base import Selection, trained_student
from ddsdk.foundation import NonNegativeInt

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn

    from ddsdk.data import RealData
    from ddsdk.students import MakeStudent


@dataclass(frozen=True, kw_only=True)
class _ByFeatures(Selection):
    """Base of selection by features, which are pixels or the embeddings of a trained student network.

    Attributes:
        student_epochs: Number of epochs for which the student is trained on all real images; 0 takes the pixels in the
            value space as features, of large images their averages (`ddsdk.data.pixel_features`).
    """

    student_epochs: NonNegativeInt = 0

    @abstractmethod
    def choose(self, features: Tensor, rng: Generator) -> Tensor:
        """Return `ipc` distinct positions in the features (N, F) of a class, (ipc,) int64."""

    def select(self, real: RealData, *, make_student: MakeStudent, rng: Generator) -> list[Tensor]:
        """Return the positions of the images selected in the feature space, for each class."""
        student = None
        if self.student_epochs:
            student = trained_student(real, self.student_epochs, make_student=make_student, rng=rng)
        positions = []
        for c in range(real.num_classes):
            index = real.index_of_class(c)
            features = _features(real, index, student)
            positions.append(index[self.choose(features, foundation.derive(rng, c))])
        return positions


def _features(real: RealData, index: Tensor, student: nn.Module | None) -> Tensor:
    if student is None:
        return data.pixel_features(real, index)
    return data.map_in_pieces(real, index, lambda batch: training.embeddings(student, batch.x))


@final
@dataclass(frozen=True, kw_only=True)
class Herding(_ByFeatures):
    """Herding: greedy selection that keeps the mean of the selected features near the class mean.

    Differences from the published algorithm: features are pixels by default. Papers on dataset distillation take the
    embeddings of a trained network, as ``student_epochs > 0`` does.

    Examples:
        >>> import ddsdk
        >>> real = ddsdk.load("digits")
        >>> len(ddsdk.distill(ddsdk.baselines.Herding(ipc=2), real))
        20

    References:
        Welling, "Herding dynamical weights to learn", ICML 2009.
    """

    name: ClassVar[str] = "herding"

    def choose(self, features: Tensor, rng: Generator) -> Tensor:  # noqa: ARG002
        """Return the positions selected by herding."""
        return data.herding(features, self.ipc)


@final
@dataclass(frozen=True, kw_only=True)
class KCenter(_ByFeatures):
    """Greedy k-center: each next image is the farthest one from the selected images.

    Differences from the published algorithm: features are pixels by default. The paper takes the embeddings of a
    trained network, as ``student_epochs > 0`` does.

    Examples:
        >>> import ddsdk
        >>> real = ddsdk.load("digits")
        >>> len(ddsdk.distill(ddsdk.baselines.KCenter(ipc=2), real))
        20

    References:
        Sener and Savarese, "Active Learning for Convolutional Neural Networks", ICLR 2018.
    """

    name: ClassVar[str] = "k-center"

    def choose(self, features: Tensor, rng: Generator) -> Tensor:  # noqa: ARG002
        """Return the positions selected by k-center."""
        return data.k_center(features, self.ipc)


@final
@dataclass(frozen=True, kw_only=True)
class KMeans(_ByFeatures):
    """Real images nearest to the centres of `ipc` k-means clusters of each class.

    Examples:
        >>> import ddsdk
        >>> real = ddsdk.load("digits")
        >>> len(ddsdk.distill(ddsdk.baselines.KMeans(ipc=2), real))
        20
    """

    name: ClassVar[str] = "k-means"

    def choose(self, features: Tensor, rng: Generator) -> Tensor:
        """Return the positions of the images nearest to the k-means centres."""
        return data.k_means_nearest(features, self.ipc, rng)


@final
@dataclass(frozen=True, kw_only=True)
class Moderate(_ByFeatures):
    """Moderate coreset: the images whose distance from the mean of their class is nearest to the median distance.

    Distances are those of the embeddings of a trained network, as in the paper.

    Differences from the published algorithm: the network is trained for 1 epoch by default. The paper takes a fully
    trained one. The paper has selections of 20 % of the data and more; here a set has few images of each class.

    Examples:
        >>> import ddsdk
        >>> real = ddsdk.load("digits")
        >>> make_student = ddsdk.network_factory("convnet", real.image_shape, 10, width=4)
        >>> len(ddsdk.distill(ddsdk.baselines.Moderate(ipc=2), real, make_student=make_student))
        20

    References:
        Xia, Liu, Yu, Shen, Han and Liu, "Moderate Coreset: A Universal Method of Data Selection for Real-world
        Data-efficient Deep Learning", ICLR 2023.
    """

    name: ClassVar[str] = "moderate"
    student_epochs: NonNegativeInt = 1

    def choose(self, features: Tensor, rng: Generator) -> Tensor:  # noqa: ARG002
        """Return the positions at moderate distance from the class mean."""
        return data.moderate(features, self.ipc)
