"""What the decoupled methods share: one teacher, trained on the real data, and the labels that it stores."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from ddsdk import foundation, students
from ddsdk.foundation import require_count, require_rate
from ddsdk.recipes.parts import augmentation_for

if TYPE_CHECKING:
    import torch

    from ddsdk.data import RealData
    from ddsdk.students import MakeStudent
    from ddsdk.training import Evaluation


def check_teacher(epochs: int, lr: float, images: int | None, temperature: float | None) -> None:
    """Check the settings of a teacher by the names that the recipes give them."""
    require_count("teacher_epochs", epochs)
    require_rate("teacher_lr", lr)
    if images is not None:
        require_count("teacher_images", images)
    if temperature is not None:
        require_rate("temperature", temperature)


def teacher_runs(
    real: RealData,
    make_student: MakeStudent,
    rng: torch.Generator,
    *,
    epochs: int,
    lr: float,
    images: int | None,
    curvature: float = 0.0,
    curvature_step: float = 3.0,
) -> students.TrainedRuns:
    """Return the one run whose last network is the teacher.

    SGD with momentum 0.9, weight decay 5e-4, shifts, and flips where the data allows them.

    Args:
        real: What the teacher learns.
        make_student: Builds the teacher from a generator.
        rng: Its seed is derived from this.
        epochs: Passes over the data.
        lr: Constant learning rate.
        images: Real images of each class that it sees; None for all.
        curvature: Weight of the curvature of its loss at the images; 0 for none.
        curvature_step: See `ddsdk.training.CurvaturePenalty`.
    """
    flips = "flip" in augmentation_for(real, None).split("_")
    training = students.Training(
        epochs=epochs,
        lr=lr,
        momentum=0.9,
        weight_decay=5e-4,
        augmentation="crop+flip" if flips else "crop",
        # The first and the last weights: nobody looks at those between.
        thin=epochs,
        images=images,
        curvature=curvature,
        curvature_step=curvature_step,
    )
    seed = foundation.derive(rng, "teacher").initial_seed()
    return students.TrainedRuns(real, make_student, training, count=1, seed=seed)


def labelled_evaluation(evaluation: Evaluation, temperature: float | None) -> Evaluation:
    """Return a protocol under a name that tells stored teacher labels apart; None keeps hard labels and the name."""
    if temperature is None:
        return evaluation
    return dataclasses.replace(evaluation, protocol=f"{evaluation.protocol}, stored teacher labels")
