"""Coresets by the score of each example early in training: GraNd and EL2N."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, final

from ddsdk import foundation, training
from ddsdk.baselines.base import Selection, trained_student
from ddsdk.foundation import NonNegativeInt, PositiveInt

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from ddsdk.data import RealData
    from ddsdk.students import MakeStudent


@dataclass(frozen=True, kw_only=True)
class _ByScore(Selection):
    """Keep the images of each class with the largest score, averaged over students.

    Attributes:
        students: Networks over which the score is averaged.
        student_epochs: Epochs of each network on all real images before it scores them.
    """

    students: PositiveInt = 3
    student_epochs: NonNegativeInt = 1

    @abstractmethod
    def score(self, error: Tensor, embedding: Tensor) -> Tensor:
        """Return one score for each image, of predicted probabilities minus labels, (N, K), and embedding, (N, F)."""

    def select(self, real: RealData, *, make_student: MakeStudent, rng: Generator) -> list[Tensor]:
        """Average the scores and take the top of each class."""
        totals: list[Tensor | float] = [0.0] * real.num_classes
        for i in range(self.students):
            key = foundation.derive(rng, "student", i)
            student = trained_student(real, self.student_epochs, make_student=make_student, rng=key)
            for c in range(real.num_classes):
                x, y = real.batch(real.index_of_class(c))
                error = training.probabilities(student, x) - y
                totals[c] = totals[c] + self.score(error, training.embeddings(student, x)).cpu()
        return [
            real.index_of_class(c)[total.topk(self.ipc).indices]  # type: ignore[union-attr]
            for c, total in enumerate(totals)
        ]


@final
@dataclass(frozen=True, kw_only=True)
class EL2N(_ByScore):
    """The images with the largest norm of the prediction error, ||p(x) - y||, early in training.

    Differences from the published algorithm: scores are averaged over 3 networks after 1 epoch each; the paper
    averages 10 networks, after 10 to 20 epochs.

    References:
        Paul, Ganguli and Dziugaite, "Deep Learning on a Data Diet", NeurIPS 2021, arXiv:2107.07075.
    """

    name: ClassVar[str] = "el2n"

    def score(self, error: Tensor, embedding: Tensor) -> Tensor:  # noqa: ARG002
        """Return the norms of the errors."""
        return error.square().sum(1).sqrt()


@final
@dataclass(frozen=True, kw_only=True)
class GraNd(_ByScore):
    """The images whose loss has the largest gradient by the head, early in training.

    That gradient is the outer product of the error and (embedding, 1), so its norm is a product of norms.

    Differences from the published algorithm: the paper takes the gradient of all parameters at initialisation;
    the last layer's, after `student_epochs`, is the usual stand-in that costs one forward pass. Scores
    are averaged over 3 networks after 1 epoch each, where the paper averages 10.

    References:
        Paul, Ganguli and Dziugaite, "Deep Learning on a Data Diet", NeurIPS 2021, arXiv:2107.07075.
    """

    name: ClassVar[str] = "grand"

    def score(self, error: Tensor, embedding: Tensor) -> Tensor:
        """Return the norms of the head's gradients."""
        return error.square().sum(1).sqrt() * (embedding.square().sum(1) + 1).sqrt()
