"""The base class of decoupled methods: a teacher trained on the real data, and its stored soft labels."""

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
    from ddsdk.recipes.signature import Generator, MakeStudent, RealData, TrainedRuns, TrainingProtocol


@dataclass(frozen=True, kw_only=True)
class Decoupled(Recipe, ABC):
    """A recipe with one teacher network that is trained on the real data before distillation.

    The teacher trains by SGD with momentum 0.9 and weight decay 5e-4, on randomly shifted images, which are also
    flipped where the data is mirror-safe.

    Attributes:
        temperature: Softmax temperature of the stored teacher labels; None for hard labels.
        teacher_epochs: Epochs of the teacher on the real data.
        teacher_lr: Constant learning rate of the teacher (SGD).
        teacher_images: Real images per class in the teacher's training; None for all.
    """

    temperature: PositiveFloat | None = 1.0
    teacher_epochs: PositiveInt = 50
    teacher_lr: PositiveFloat = 0.01
    teacher_images: PositiveInt | None = None

    @final
    def teacher_runs(self, real: RealData, make_student: MakeStudent, rng: Generator, **options: Any) -> TrainedRuns:  # noqa: ANN401
        """Return the training run whose last snapshot is the teacher; `options` are further fields of `Training`."""
        flips = "flip" in augmentation_for(real, None).split("_")
        training = students.Training(
            epochs=self.teacher_epochs,
            lr=self.teacher_lr,
            momentum=0.9,
            weight_decay=5e-4,
            augmentation="crop+flip" if flips else "crop",
            # Two snapshots are stored: the initial weights and the teacher.
            thin=self.teacher_epochs,
            images=self.teacher_images,
            **options,
        )
        seed = foundation.derive(rng, "teacher").initial_seed()
        return students.TrainedRuns(real, make_student, training, count=1, seed=seed)

    @final
    def labelled(self, augmentation: str) -> TrainingProtocol:
        """Return the evaluation protocol of DC, DSA and DM, renamed where the set stores teacher labels."""
        published = training.TrainingProtocol.published(augmentation)
        if self.temperature is None:
            return published
        return dataclasses.replace(published, name=f"{published.name}, stored teacher labels")
