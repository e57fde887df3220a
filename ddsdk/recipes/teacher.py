"""The frame that decoupled methods share: one teacher, trained on the real data, and the labels that it stores."""

from __future__ import annotations

import dataclasses
from abc import ABC
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

from ddsdk import foundation, students, training
from ddsdk.foundation import PositiveFloat, PositiveInt
from ddsdk.recipes.base import Recipe
from ddsdk.recipes.parts import augmentation_for

if TYPE_CHECKING:
    from ddsdk.recipes.signature import Evaluation, Generator, MakeStudent, RealData, TrainedRuns


@dataclass(frozen=True, kw_only=True)
class Decoupled(Recipe, ABC):
    """A recipe with one teacher, which trains by SGD with momentum 0.9, weight decay 5e-4, shifts, and flips if safe.

    Attributes:
        temperature: Temperature of the stored teacher labels; None keeps hard ones.
        teacher_epochs: Epochs of the teacher on real data.
        teacher_lr: Constant learning rate of the teacher.
        teacher_images: Real images of each class for the teacher; None for all.
    """

    temperature: PositiveFloat | None = 1.0
    teacher_epochs: PositiveInt = 50
    teacher_lr: PositiveFloat = 0.01
    teacher_images: PositiveInt | None = None

    @final
    def teacher_runs(self, real: RealData, make_student: MakeStudent, rng: Generator, **options: Any) -> TrainedRuns:  # noqa: ANN401
        """Return the one run whose last network is the teacher, with further options of `ddsdk.students.Training`."""
        flips = "flip" in augmentation_for(real, None).split("_")
        training = students.Training(
            epochs=self.teacher_epochs,
            lr=self.teacher_lr,
            momentum=0.9,
            weight_decay=5e-4,
            augmentation="crop+flip" if flips else "crop",
            # Only the first and the last weights are read.
            thin=self.teacher_epochs,
            images=self.teacher_images,
            **options,
        )
        seed = foundation.derive(rng, "teacher").initial_seed()
        return students.TrainedRuns(real, make_student, training, count=1, seed=seed)

    @final
    def labelled(self, augmentation: str) -> Evaluation:
        """Return the protocol of DSA and DM, under another name where teacher labels are stored."""
        published = training.Evaluation.published(augmentation)
        if self.temperature is None:
            return published
        return dataclasses.replace(published, protocol=f"{published.protocol}, stored teacher labels")
