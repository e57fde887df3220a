"""The frames of gradient matching with students trained on the set: DC and DSA, and those that go on from them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, final

from ddsdk import data, objectives, running, students, training
from ddsdk.foundation import require_count, require_momentum, require_rate
from ddsdk.recipes.base import IterativeRecipe
from ddsdk.recipes.parts import augmentation_for, pixel_set, sgd_on_images

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ddsdk.data import RealData
    from ddsdk.objectives import Distance, Objective
    from ddsdk.running import Schedule
    from ddsdk.students import Lesson, MakeStudent


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
class AlongStudents(IterativeRecipe):
    """Gradient matching along the training of a student on the synthetic set.

    Attributes:
        students: Networks that are drawn, one after another.
        steps_per_student: Image steps for which a network serves; None takes the paper's for `ipc`.
        student_epochs: Epochs of a network on the set between two image steps; None takes the paper's.
        image_lr: Learning rate of the images (SGD).
        image_momentum: Momentum of the images.
        student_lr: Learning rate of the networks (SGD without momentum).
        real_batch: Real images of each class in one step.
        start: Where the images start: noise, real, k-means, means or herding.
        augmentation: DSA operations joined by "_"; empty for none. None takes the published ones that suit the data:
            without flip unless the data is mirror-safe.
    """

    length: ClassVar[str] = "students"
    students: int = 1000
    steps_per_student: int | None = None
    student_epochs: int | None = None
    image_lr: float = 0.1
    image_momentum: float = 0.5
    student_lr: float = 0.01
    real_batch: int = 256
    start: str = "real"
    augmentation: str | None = None

    @final
    def check_fields(self) -> None:
        """Check the counts and rates that all of these recipes have."""
        for name in ("students", "real_batch"):
            require_count(name, getattr(self, name))
        if self.steps_per_student is not None:
            require_count("steps_per_student", self.steps_per_student)
        if self.student_epochs is not None:
            require_count("student_epochs", self.student_epochs, least=0)
        for name in ("image_lr", "student_lr"):
            require_rate(name, getattr(self, name))
        require_momentum("image_momentum", self.image_momentum)

    @final
    def loops(self) -> tuple[int, int]:
        """Return the image steps of a network, and its epochs between two of them."""
        steps, epochs = published_loops(self.ipc)
        return (
            steps if self.steps_per_student is None else self.steps_per_student,
            epochs if self.student_epochs is None else self.student_epochs,
        )

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
    def siamese(self, real: RealData) -> data.Augmentation:
        """Return the augmentation of both sides and of the students."""
        return data.Augmentation(augmentation_for(real, self.augmentation))

    @final
    def along(
        self,
        real: RealData,
        objective: Objective[nn.Module] | Schedule[nn.Module],
        lesson: Lesson,
        *,
        make_student: MakeStudent,
        rng: torch.Generator,
    ) -> running.Plan[nn.Module]:
        """Return a plan of pixels that step by `objective` under students that have `lesson` in between."""
        steps, _ = self.loops()
        return running.Plan(
            syn=pixel_set(real, self.ipc, self.start, rng),
            objective=objective,
            students=students.AlternatingStudents(make_student, lesson, period=steps, lr=self.student_lr),
            make_optimizer=partial(sgd_on_images, lr=self.image_lr, momentum=self.image_momentum),
            steps=self.students * steps,
        )

    @final
    def evaluation(self, real: RealData) -> training.Evaluation:
        """Return the published protocol, with the recipe's augmentation."""
        return training.Evaluation.published(augmentation_for(real, self.augmentation))


@dataclass(frozen=True, kw_only=True)
class GradientMatching(AlongStudents):
    """Class-wise gradient matching along the training of a student on the synthetic set."""

    def check(self) -> None:
        """Check counts and rates."""
        self.check_fields()

    def parts(self, real: RealData, *, make_student: MakeStudent, rng: torch.Generator) -> running.Plan[nn.Module]:
        """Return filter-cosine matching of class gradients under students trained on the set."""
        match, _ = self.levels(real, objectives.filter_cosine)
        _, epochs = self.loops()
        lesson = students.OnSynthetic(epochs=epochs, augmentation=self.siamese(real))
        return self.along(real, match, lesson, make_student=make_student, rng=rng)
