"""Coresets that are selected by a score of each image early in training: GraNd and EL2N, with a window of scores."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar, final

from ddsdk import data, foundation, training
from ddsdk.baselines.base import Selection, trained_student
from ddsdk.foundation import Fraction, NonNegativeInt, PositiveInt

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn

    from ddsdk.data import Batch, RealData
    from ddsdk.students import MakeStudent


@dataclass(frozen=True, kw_only=True)
class _ByScore(Selection):
    """Base of selection by the largest score in each class, averaged over several student networks.

    Attributes:
        skip: Share of the images of each class with the largest scores that is left out, in 0..1; 0 takes the largest
            scores. The hardest images are often wrongly labelled or unlike their class.
        students: Number of student networks over which the score is averaged.
        student_epochs: Number of epochs for which each network is trained on all real images before it is used.
    """

    skip: Fraction = 0.0
    students: PositiveInt = 3
    student_epochs: NonNegativeInt = 1

    @abstractmethod
    def score(self, error: Tensor, embedding: Tensor) -> Tensor:
        """Return the scores, (N,), of images with prediction errors p(x) - y, (N, K), and embeddings, (N, F)."""

    def select(self, real: RealData, *, make_student: MakeStudent, rng: Generator) -> list[Tensor]:
        """Return the positions of `ipc` images of each class: the largest mean scores behind those that are skipped."""
        totals: list[Tensor | float] = [0.0] * real.num_classes
        for i in range(self.students):
            student_rng = foundation.derive(rng, "student", i)
            student = trained_student(real, self.student_epochs, make_student=make_student, rng=student_rng)
            for c in range(real.num_classes):
                scores = data.map_in_pieces(real, real.index_of_class(c), partial(self._scores, student))
                totals[c] = totals[c] + scores.cpu()
        return [
            real.index_of_class(c)[window(total, self.ipc, self.skip)]  # type: ignore[arg-type]
            for c, total in enumerate(totals)
        ]

    @final
    def _scores(self, student: nn.Module, batch: Batch) -> Tensor:
        error = training.probabilities(student, batch.x) - batch.y
        return self.score(error, training.embeddings(student, batch.x))


def window(scores: Tensor, n: int, skip: float) -> Tensor:
    """Return the positions of `n` scores in falling order, behind a share of the largest ones.

    The window ends at the smallest score if the share leaves fewer than `n` scores.

    Args:
        scores: Scores of the images of a class, (N,).
        n: Number of images to select, in 1..N.
        skip: Share of the scores that is left out, in 0..1.

    Examples:
        >>> import torch
        >>> from ddsdk.baselines.scores import window
        >>> window(torch.tensor([4.0, 1.0, 3.0, 2.0, 5.0]), 2, 0.2).tolist()
        [0, 2]
    """
    first = min(round(skip * len(scores)), len(scores) - n)
    return scores.topk(first + n).indices[first:]


@final
@dataclass(frozen=True, kw_only=True)
class EL2N(_ByScore):
    """EL2N: the images with the largest norm of the prediction error, ||p(x) - y||, early in training.

    With `skip` the window of scores begins behind the hardest share of each class, as in the paper's experiments with
    windows. Small sets of the hardest images of all train networks badly.

    Differences from the published algorithm: scores are averaged over 3 networks after 1 epoch each. The paper
    averages over 10 networks after 10 to 20 epochs.

    Examples:
        >>> import ddsdk
        >>> real = ddsdk.load("digits")
        >>> make_student = ddsdk.network_factory("convnet", real.image_shape, 10, width=4)
        >>> len(ddsdk.distill(ddsdk.baselines.EL2N(ipc=2, students=1), real, make_student=make_student))
        20

    References:
        Paul, Ganguli and Dziugaite, "Deep Learning on a Data Diet", NeurIPS 2021, arXiv:2107.07075.
    """

    name: ClassVar[str] = "el2n"
    needs = ("features",)

    def score(self, error: Tensor, embedding: Tensor) -> Tensor:  # noqa: ARG002
        """Return the norms of the prediction errors, (N,)."""
        return error.square().sum(1).sqrt()


@final
@dataclass(frozen=True, kw_only=True)
class GraNd(_ByScore):
    """GraNd: the images with the largest norm of the gradient of their loss, early in training.

    The gradient with respect to the linear head is the outer product of the prediction error and (embedding, 1). Its
    norm is therefore the product of the two norms.

    Differences from the published algorithm: the paper takes the gradient with respect to all parameters at
    initialisation. The gradient of the head after `student_epochs` is the usual approximation and costs one forward
    pass. Scores are averaged over 3 networks after 1 epoch each; the paper averages over 10 networks.

    Examples:
        >>> import ddsdk
        >>> real = ddsdk.load("digits")
        >>> make_student = ddsdk.network_factory("convnet", real.image_shape, 10, width=4)
        >>> len(ddsdk.distill(ddsdk.baselines.GraNd(ipc=2, students=1), real, make_student=make_student))
        20

    References:
        Paul, Ganguli and Dziugaite, "Deep Learning on a Data Diet", NeurIPS 2021, arXiv:2107.07075.
    """

    name: ClassVar[str] = "grand"
    needs = ("features",)

    def score(self, error: Tensor, embedding: Tensor) -> Tensor:
        """Return the norms of the gradients of the head, (N,)."""
        return error.square().sum(1).sqrt() * (embedding.square().sum(1) + 1).sqrt()
