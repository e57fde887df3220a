"""FRePo: ridge regression on the features of a pool of students."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, final, get_args

from ddsdk import data, objectives, running, students, synthetic
from ddsdk.foundation import NonNegativeInt, PositiveFloat, PositiveInt, require
from ddsdk.recipes.parts import augmentation_for
from ddsdk.recipes.regression import LabelRegression, regression_protocol

if TYPE_CHECKING:
    from ddsdk.recipes.signature import Generator, MakeStudent, Module, Plan, RealData, TrainingProtocol


_LOSS = Literal["mse", "cross-entropy"]
_MOST_MIRRORED = 500
"""Largest number of images for which the paper's code adds the mirror images to the regression."""


@final
@dataclass(frozen=True, kw_only=True)
class FRePo(LabelRegression):
    """Feature regression with pooling: ridge regression on the features of students of different training ages.

    min over S and Y of ||f(T) f(S)' (f(S) f(S)' + r I)^-1 Y - y||^2 / 2 - mean min(y_1 - y_2, 1/K) on a real batch (T,
    y), where y_1 and y_2 are the two largest entries of a row of Y, and r = ridge tr(f(S) f(S)') / n. The student f is
    drawn from a pool, and takes a training step on (S, Y) afterwards.

    Attributes:
        steps: Image steps; the paper has 500 000.
        pool: Number of students in the pool; the paper has 10.
        student_steps: Training steps after which a student is replaced; the paper has 100. With 0 no student trains,
            and with a pool of one each image step has a fresh student.
        student_lr: Learning rate of the students (Adam); the paper has 3e-4.
        student_batch: Synthetic images in one training step of a student.
        real_batch: Real images in one image step; the paper has 1024.
        image_lr: Learning rate of the images (Adam); the paper has 3e-4 (LAMB).
        mirror: Whether the regression also uses the mirror images of the set. None for the paper's rule: for at most
            500 colour images, where the data is mirror-safe.
        loss: Loss of the predictions, ``"mse"`` as above and in the paper, or ``"cross-entropy"`` of the predictions
            times a learned scale, as in RFAD, which is better at one image per class.
        scale_lr: Learning rate of the logarithm of the learned scale.
        augmentation: DSA operations of the evaluation, joined by "_"; empty for none. None for the operations that suit
            the data.

    The defaults are for a CPU, a time budget of minutes and narrow students. With `anneal` the learning rates fall
    along half a cosine, as in the paper.

    Differences from the published algorithm: Adam in place of LAMB, and the smaller pool and numbers above with higher
    learning rates. Networks of the catalogue have no normalisation; the paper's networks double their width from block
    to block and have BatchNorm during distillation. All students of the initial pool are fresh, whatever their initial
    age.

    References:
        Zhou, Nezhadarya and Ba, "Dataset Distillation using Neural Feature Regression", NeurIPS 2022, arXiv:2206.00719.

    Examples:
        >>> import ddsdk
        >>> real = ddsdk.load("digits")
        >>> recipe = ddsdk.FRePo(ipc=1, steps=2, pool=2, real_batch=16)
        >>> make_student = ddsdk.network_factory("convnet", real.image_shape, 10, width=4)
        >>> ddsdk.distill(recipe, real, make_student=make_student).label_space
        'scores'
    """

    name: ClassVar[str] = "frepo"
    needs = ("features",)
    steps: PositiveInt = 2000
    pool: PositiveInt = 4
    student_steps: NonNegativeInt = 30
    student_lr: PositiveFloat = 1e-3
    student_batch: PositiveInt = 500
    loss: _LOSS = "mse"
    scale_lr: PositiveFloat = 0.01
    mirror: bool | None = None
    augmentation: str | None = None

    def check(self) -> None:
        """Check that the loss is known."""
        known = list(get_args(_LOSS))
        require(self.loss in known, "loss", f"be one of {known}", self.loss)

    def parts(self, real: RealData, *, make_student: MakeStudent, rng: Generator) -> Plan[Module]:
        """Return ridge regression on the features of a pool of students that train on the set."""
        # The evaluation alone uses the augmentation: check it before the run.
        data.Augmentation(augmentation_for(real, self.augmentation))
        # The paper's code scales the centred one-hot labels by sqrt(10 / K).
        label_scale = math.sqrt(10 / real.num_classes)
        scale = None if self.loss == "mse" else synthetic.LearnedScale(10.0)
        return running.Plan(
            syn=self.scored_set(real, rng, label_scale=label_scale, scale=scale),
            objective=objectives.FitAndTest(
                compare=objectives.ByFeatures(),
                ridge=self.share,
                real_batch=self.real_batch,
                loss=self.loss,
                label_scale=label_scale,
                margin=1 / real.num_classes,
                mirrored=self._mirrors(real),
            ),
            students=students.TrainedPool(
                students.plain_student(make_student),
                pool=self.pool,
                longest=self.student_steps,
                lr=self.student_lr,
                batch_size=self.student_batch,
            ),
            make_optimizer=self.adam(self.scale_lr),
            steps=self.steps,
            divergence_hint="image_lr, label_lr or student_lr",
        )

    def protocol(self, real: RealData) -> TrainingProtocol:
        """Return the evaluation protocol of the paper."""
        return regression_protocol(real, self.ipc * real.num_classes, augmentation=self.augmentation)

    def _mirrors(self, real: RealData) -> bool:
        if self.mirror is not None:
            return self.mirror
        few = self.ipc * real.num_classes <= _MOST_MIRRORED
        return few and real.image_shape[0] == 3 and "flip" in augmentation_for(real, None).split("_")
