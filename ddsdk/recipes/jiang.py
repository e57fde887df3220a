"""Jiang: gradient matching on two levels, in angle and length, with students that stop in time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, final

from ddsdk import objectives, students
from ddsdk.foundation import NonNegativeFloat, PositiveInt
from ddsdk.recipes.gradient import AlongStudents

if TYPE_CHECKING:
    from ddsdk.recipes.signature import Generator, MakeStudent, Module, Plan, RealData


@final
@dataclass(frozen=True, kw_only=True)
class Jiang(AlongStudents):
    """Effective gradient matching: class by class and all classes at once, by the angle and the length of filters.

    sum_c D(grad L(S_c), grad L(T_c)) + collective D(grad L(S), 1/K sum_c grad L(T_c)), with
    D(a, b) = sum over filters of (1 - cos(a_i, b_i)) + magnitude ||a_i - b_i||. Students train on the set only as
    long as that helps them on real images.

    Attributes:
        collective: Weight of the term of all classes.
        magnitude: Weight of the Euclidean distance of filters.
        patience: Epochs without a new low of a student's loss on real images, after which its training ends;
            `student_epochs` bounds it.

    Differences from the published algorithm: the weights, 1 and 1, and the rule by which students stop, see
    `ddsdk.students.UntilOverfit`, were chosen here: no code was published with the paper. Image steps are as many as
    DC's for each student; the paper adapts these too. Loops are interpolated for an ipc that DC's paper does not list.

    References:
        Jiang et al., "Delving into Effective Gradient Matching for Dataset Condensation", arXiv:2208.00311.
    """

    name: ClassVar[str] = "jiang"
    collective: NonNegativeFloat = 1.0
    magnitude: NonNegativeFloat = 1.0
    patience: PositiveInt = 2

    def parts(self, real: RealData, *, make_student: MakeStudent, rng: Generator) -> Plan[Module]:
        """Return matching on both levels under students that stop before they overfit."""
        single, joint = self.levels(real, objectives.FilterGap(self.magnitude))
        both: objectives.Total[Module] = objectives.Total(((1.0, single), (self.collective, joint)))
        _, epochs = self.loops()
        lesson = students.UntilOverfit(epochs=epochs, augmentation=self.siamese(real), patience=self.patience)
        return self.along(real, both, lesson, make_student=make_student, rng=rng)
