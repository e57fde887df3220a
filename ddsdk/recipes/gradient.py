"""Base classes of gradient matching under students trained on the synthetic set: DC, DSA, DCC and Jiang."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, final

from ddsdk import objectives, running, students
from ddsdk.foundation import Momentum, NonNegativeInt, PositiveFloat, PositiveInt
from ddsdk.recipes.base import AugmentedRecipe
from ddsdk.recipes.parts import pixel_set, sgd_on_images

if TYPE_CHECKING:
    from ddsdk.objectives import Distance, Objective
    from ddsdk.recipes.signature import Generator, MakeStudent, Module, Plan, RealData
    from ddsdk.running import ObjectiveSchedule
    from ddsdk.students import StudentUpdate


# (ipc, image steps per student, epochs of the student between two image steps), as published for DC.
_LOOPS = ((1, 1, 1), (10, 10, 50), (20, 20, 25), (30, 30, 20), (40, 40, 15), (50, 50, 10))


def published_loops(ipc: int) -> tuple[int, int]:
    """Return the published (image steps per student, student epochs between them) for `ipc`.

    Values between two published ipc are interpolated linearly; beyond 50 they stay constant.
    """
    for (a, steps_a, epochs_a), (b, steps_b, epochs_b) in pairwise(_LOOPS):
        if ipc <= b:
            share = (ipc - a) / (b - a)
            return round(steps_a + share * (steps_b - steps_a)), round(epochs_a + share * (epochs_b - epochs_a))
    return _LOOPS[-1][1:]


@dataclass(frozen=True, kw_only=True)
class StudentGradientMatching(AugmentedRecipe):
    """Gradient matching along the training of students on the synthetic set.

    Attributes:
        students: Number of student networks, drawn one after another.
        steps_per_student: Image steps before a student is replaced; None for the published number at `ipc`.
        student_epochs: Epochs of a student on the set between two image steps; None for the published number at `ipc`.
        image_lr: Learning rate of the images (SGD).
        image_momentum: Momentum of the SGD on the images.
        student_lr: Learning rate of the students (SGD without momentum).
        real_batch: Real images per class in one image step.
        start: Initialisation of the images: noise, real, k-means, means or herding.
    """

    length: ClassVar[str] = "students"
    students: PositiveInt = 1000
    steps_per_student: PositiveInt | None = None
    student_epochs: NonNegativeInt | None = None
    image_lr: PositiveFloat = 0.1
    image_momentum: Momentum = 0.5
    student_lr: PositiveFloat = 0.01
    real_batch: PositiveInt = 256
    start: str = "real"

    @final
    def loops(self) -> tuple[int, int]:
        """Return the image steps per student and the student's epochs between two of them."""
        steps, epochs = published_loops(self.ipc)
        return self.steps_per_student or steps, epochs if self.student_epochs is None else self.student_epochs

    @final
    def levels(self, real: RealData, distance: Distance) -> tuple[objectives.ClassMatch, objectives.CollectiveMatch]:
        """Return the class-wise and the collective objective that match weight gradients by `distance`."""
        parts: dict[str, Any] = {
            "byproduct": objectives.weight_gradients,
            "distance": distance,
            "real_batch": self.real_batch,
            "augmentation": self.siamese(real),
        }
        return objectives.ClassMatch(**parts), objectives.CollectiveMatch(**parts)

    @final
    def along(
        self,
        real: RealData,
        objective: Objective[Module] | ObjectiveSchedule[Module],
        update: StudentUpdate,
        *,
        make_student: MakeStudent,
        rng: Generator,
    ) -> Plan[Module]:
        """Return a plan of pixels that minimises `objective`; `update` trains the students between image steps."""
        steps, _ = self.loops()
        return running.Plan(
            syn=pixel_set(real, self.ipc, self.start, rng),
            objective=objective,
            students=students.AlternatingStudents(make_student, update, period=steps, lr=self.student_lr),
            make_optimizer=partial(sgd_on_images, lr=self.image_lr, momentum=self.image_momentum),
            steps=self.students * steps,
        )


@dataclass(frozen=True, kw_only=True)
class GradientMatching(StudentGradientMatching):
    """Class-wise gradient matching along the training of students on the synthetic set."""

    sums_over_classes: ClassVar[bool] = True

    def parts(self, real: RealData, *, make_student: MakeStudent, rng: Generator) -> Plan[Module]:
        """Return class-wise matching of gradients by the cosine of filters, under students trained on the set."""
        match, _ = self.levels(real, objectives.filter_cosine)
        _, epochs = self.loops()
        update = students.TrainOnSynthetic(epochs=epochs, augmentation=self.siamese(real))
        return self.along(real, match, update, make_student=make_student, rng=rng)
