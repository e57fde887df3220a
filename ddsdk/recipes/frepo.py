"""FRePo: regression on the features of a pool of students."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, final, get_args

from ddsdk import data, objectives, running, students, synthetic
from ddsdk.foundation import NonNegativeInt, PositiveFloat, PositiveInt, require
from ddsdk.recipes.parts import augmentation_for
from ddsdk.recipes.regression import LabelRegression, regression_protocol

if TYPE_CHECKING:
    from ddsdk.recipes.signature import Evaluation, Generator, MakeStudent, Module, Plan, RealData


_LOSS = Literal["mse", "cross-entropy"]
_MIRRORED = 500
"""Above so many images the code of the paper leaves the mirror images out."""


@final
@dataclass(frozen=True, kw_only=True)
class FRePo(LabelRegression):
    """Feature regression with pooling: ridge regression on features of students of all ages.

    min over S and Y of ||f(T) f(S)' (f(S) f(S)' + r I)^-1 Y - y||^2 / 2 - mean min(y_1 - y_2, 1/K) on a real batch
    (T, y), where y_1 and y_2 are the largest entries of a row of Y, and r = ridge tr(f(S) f(S)') / n. The student f is
    one of a pool; each pick is followed by a step of training on (S, Y).

    Attributes:
        steps: Image steps; the paper has 500 000.
        pool: Networks; the paper has 10.
        student_steps: Steps of training after which a network of the pool is replaced; the paper has 100. With 0 none
            trains, and a pool of one is a fresh network in each step.
        student_lr: Learning rate of the networks (Adam); the paper has 3e-4.
        student_batch: Images of one of their steps.
        real_batch: Real images of one step; the paper has 1024.
        image_lr: Learning rate of the images (Adam); the paper has 3e-4 (LAMB).
        mirror: Whether the regression has the mirror images too. None takes the paper's: for colour images that may
            be mirrored, at most 500 of them.
        loss: ``"mse"``, as above and in the paper, or ``"cross-entropy"`` of the predictions times a learned scale, as
            RFAD has it, which pays at one image per class.
        scale_lr: Learning rate of the logarithm of that scale.
        augmentation: DSA operations of the evaluation, joined by "_"; empty for none. None takes those that suit the
            data.

    The defaults are for a CPU and some minutes, with narrow students. The learning rates fall along half a cosine with
    `anneal`, as in the paper.

    Differences from the published algorithm: Adam for LAMB, and the smaller pool and numbers above with higher rates.
    The networks are the student's without normalisation where the catalogue has that; the paper's double their width
    from block to block and have BatchNorm while a set is made. Networks that count as old at the start are fresh.

    References:
        Zhou, Nezhadarya and Ba, "Dataset Distillation using Neural Feature Regression", NeurIPS 2022, arXiv:2206.00719.
    """

    name: ClassVar[str] = "frepo"
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
        """Check the loss."""
        known = list(get_args(_LOSS))
        require(self.loss in known, "loss", f"be one of {known}", self.loss)

    def parts(self, real: RealData, *, make_student: MakeStudent, rng: Generator) -> Plan[Module]:
        """Return regression on the features of a pool that trains on the set."""
        # Refused before the run, and not when its set is judged.
        data.Augmentation(augmentation_for(real, self.augmentation))
        height = math.sqrt(10 / real.num_classes)
        scale = None if self.loss == "mse" else synthetic.LearnedScale(10.0)
        return running.Plan(
            syn=self.scored_set(real, rng, label_scale=height, scale=scale),
            objective=objectives.FitAndTest(
                compare=objectives.ByFeatures(),
                ridge=self.share,
                real_batch=self.real_batch,
                loss=self.loss,
                label_scale=height,
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
            knobs="image_lr, label_lr or student_lr",
        )

    def evaluation(self, real: RealData) -> Evaluation:
        """Return the paper's protocol."""
        return regression_protocol(real, self.ipc * real.num_classes, augmentation=self.augmentation)

    def _mirrors(self, real: RealData) -> bool:
        if self.mirror is not None:
            return self.mirror
        few = self.ipc * real.num_classes <= _MIRRORED
        return few and real.image_shape[0] == 3 and "flip" in augmentation_for(real, None).split("_")
