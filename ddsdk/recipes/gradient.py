"""The frames of gradient matching with students trained on the set: DC and DSA, and those that go on from them."""

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
    from ddsdk.running import Schedule
    from ddsdk.students import Lesson


# (ipc, image steps of one student, epochs of the student between two of them), as published.
_LOOPS = ((1, 1, 1), (10, 10, 50), (20, 20, 25), (30, 30, 20), (40, 40, 15), (50, 50, 10))


def published_loops(ipc: int) -> tuple[int, int]:
    """Return the paper's (image steps, student epochs) for `ipc`, interpolated where the paper has none."""
    for (a, steps_a, epochs_a), (b, steps_b, epochs_b) in pairwise(_LOOPS):
        if ipc <= b:
            share = (ipc - a) / (b - a)
            return round(steps_a + share * (steps_b - steps_a)), round(epochs_a + share * (epochs_b - epochs_a))
    return _LOOPS[-1][1:]


@dataclass(frozen=True, kw_only=True)
class AlongStudents(AugmentedRecipe):
    """Gradient matching along the training of a student on the synthetic set.

    Attributes:
        students: Networks that are drawn, one after another.
        steps_per_student: Image steps for which a network serves; None takes the paper's for `ipc`.
        student_epochs: Epochs of a network on the set between two image steps; None takes the paper's.
        image_lr: Learning rate of the images (SGD).
        image_momentum: Momentum of the images.
        student_lr: Learning rate of the networks (SGD without momentum).
        real_batch: Real images of each class in one step.
        start: Start of the images: noise, real, k-means, means or herding.
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
        """Return the image steps of a network, and its epochs between two of them."""
        steps, epochs = published_loops(self.ipc)
        return self.steps_per_student or steps, epochs if self.student_epochs is None else self.student_epochs

    @final
    def levels(self, real: RealData, distance: Distance) -> tuple[objectives.ClassMatch, objectives.CollectiveMatch]:
        """Return matching of weight gradients class by class, and of all classes at once."""
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
        objective: Objective[Module] | Schedule[Module],
        lesson: Lesson,
        *,
        make_student: MakeStudent,
        rng: Generator,
    ) -> Plan[Module]:
        """Return a plan of pixels that step by `objective` under students that have `lesson` in between."""
        steps, _ = self.loops()
        return running.Plan(
            syn=pixel_set(real, self.ipc, self.start, rng),
            objective=objective,
            students=students.AlternatingStudents(make_student, lesson, period=steps, lr=self.student_lr),
            make_optimizer=partial(sgd_on_images, lr=self.image_lr, momentum=self.image_momentum),
            steps=self.students * steps,
        )


@dataclass(frozen=True, kw_only=True)
class GradientMatching(AlongStudents):
    """Class-wise gradient matching along the training of a student on the synthetic set."""

    def parts(self, real: RealData, *, make_student: MakeStudent, rng: Generator) -> Plan[Module]:
        """Return filter-cosine matching of class gradients under students trained on the set."""
        match, _ = self.levels(real, objectives.filter_cosine)
        _, epochs = self.loops()
        lesson = students.OnSynthetic(epochs=epochs, augmentation=self.siamese(real))
        return self.along(real, match, lesson, make_student=make_student, rng=rng)
