"""Jiang: gradient matching by angle and length, class-wise and collective, with early stopping of the students."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, final

from ddsdk import objectives, students
from ddsdk.foundation import NonNegativeFloat, PositiveInt
from ddsdk.recipes.gradient import StudentGradientMatching

if TYPE_CHECKING:
    from ddsdk.recipes.signature import Generator, MakeStudent, Module, Plan, RealData


@final
@dataclass(frozen=True, kw_only=True)
class Jiang(StudentGradientMatching):
    """Effective gradient matching: gradients match class-wise and collectively, in the angle and the length of filters.

    min_S sum_c D(grad L(S_c), grad L(T_c)) + collective D(grad L(S), 1/K sum_c grad L(T_c)), with D(a, b) = sum over
    filters of (1 - cos(a_i, b_i)) + magnitude ||a_i - b_i||. Early stopping ends the training of a student on the set
    when its loss on real images no longer falls.

    Attributes:
        collective: Weight of the collective term, which matches all classes together.
        magnitude: Weight of the Euclidean distance of filters.
        patience: Epochs without a new minimum of a student's loss on real images after which its training ends;
            `student_epochs` is the upper bound.

    Differences from the published algorithm: the weights, 1 and 1, and the rule of early stopping, see
    `ddsdk.students.EarlyStoppingUpdate`, were chosen here, because no code was published with the paper. The image
    steps per student are those of DC; the paper adapts them too. The numbers of steps per student and of student epochs
    are interpolated for an ipc that DC's paper does not list.

    References:
        Jiang et al., "Delving into Effective Gradient Matching for Dataset Condensation", arXiv:2208.00311.

    Examples:
        >>> import ddsdk
        >>> real = ddsdk.load("digits")
        >>> recipe = ddsdk.Jiang(ipc=1, students=1, real_batch=16)
        >>> make_student = ddsdk.network_factory("convnet", real.image_shape, 10, width=4)
        >>> tuple(ddsdk.distill(recipe, real, make_student=make_student).images.shape)
        (10, 1, 8, 8)
    """

    name: ClassVar[str] = "jiang"
    needs = ("second derivatives",)
    collective: NonNegativeFloat = 1.0
    magnitude: NonNegativeFloat = 1.0
    patience: PositiveInt = 2

    def parts(self, real: RealData, *, make_student: MakeStudent, rng: Generator) -> Plan[Module]:
        """Return class-wise and collective matching under students with early stopping."""
        class_wise, collective = self.levels(real, objectives.FilterGap(self.magnitude))
        objective: objectives.WeightedSum[Module] = objectives.WeightedSum(
            ((1.0, class_wise), (self.collective, collective))
        )
        _, epochs = self.loops()
        update = students.EarlyStoppingUpdate(epochs=epochs, augmentation=self.siamese(real), patience=self.patience)
        return self.along(real, objective, update, make_student=make_student, rng=rng)
