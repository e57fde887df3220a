"""SRe2L: squeeze, recover and relabel."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar, final

from ddsdk import data, objectives, running, students, synthetic
from ddsdk.foundation import NonNegativeFloat, PositiveFloat, PositiveInt, require_count
from ddsdk.recipes.base import IterativeRecipe
from ddsdk.recipes.parts import adam_on_images, augmentation_for, pixel_set
from ddsdk.recipes.teacher import Decoupled

if TYPE_CHECKING:
    from ddsdk.recipes.signature import Evaluation, Generator, MakeStudent, Plan, RealData, SyntheticSet, TrainedRuns


@final
@dataclass(frozen=True, kw_only=True)
class SRe2L(Decoupled, IterativeRecipe):
    """Squeeze, recover, relabel: images whose statistics in a trained network are those of the real data.

    A BatchNorm teacher f is trained on the real data. Then each batch S of one image of each class minimises
    CE(f(A(S)), y) + weight sum_l w_l (||mean_l(S) - m_l|| + ||var_l(S) - v_l||), w_1 = 10 and else 1, from noise, with
    Adam (betas 0.5 and 0.9) under a cosine. Last, each image gets one stored row of the teacher's softmax.

    Attributes:
        steps: Image steps.
        image_lr: Learning rate of the images (Adam), falling to 0 along a cosine.
        weight: Weight of the statistics.
        batch: Largest number of images in one batch, one of each class.
        start: Start of the images: noise, real, k-means, means or herding.
        augmentation: Operations on the images while they are recovered; crop shifts by up to an eighth of the side.
        teacher_epochs: Epochs of the teacher on real data. Less trained ones can recover better.
        teacher_curvature: Weight of the curvature of the teacher's loss at the images, 0 for none; see
            `ddsdk.training.CurvaturePenalty`. With 100 this is GUARD (AAAI 2025, arXiv:2403.10045), for networks that
            resist attacks.
        teacher_curvature_step: Step of that curvature.

    The teacher is the student's network with BatchNorm: itself if it has some, else the catalogue's with norm="batch".

    Differences from the published algorithm: labels are stored, one row for each image, where the paper has one for
    each augmented view (FKD) and trains with a KL divergence; a live teacher is not offered. Networks train under the
    protocol of DC, DSA and DM on these rows. The jitter's border is zero instead of wrapped around. The teacher trains
    at a constant rate, and its statistics are those of some 512 real images under its last weights instead of a moving
    average. Variances are unbiased on both sides. Pixels are clamped to the unit range, except under ZCA.

    References:
        Yin, Xing and Shen, "Squeeze, Recover and Relabel: Dataset Condensation at ImageNet Scale From A New
        Perspective", NeurIPS 2023, arXiv:2306.13092.
    """

    name: ClassVar[str] = "sre2l"
    steps: PositiveInt = 1000
    image_lr: PositiveFloat = 0.25
    weight: NonNegativeFloat = 0.01
    batch: int = 100
    start: str = "noise"
    augmentation: str = "crop"
    teacher_epochs: PositiveInt = 200
    teacher_curvature: NonNegativeFloat = 0.0
    teacher_curvature_step: PositiveFloat = 3.0

    def check(self) -> None:
        """Check the batch."""
        require_count("batch", self.batch, least=2)

    def runs(self, real: RealData, *, make_student: MakeStudent, rng: Generator) -> TrainedRuns:
        """Return the run whose last network is the teacher.

        Raises:
            ValueError: If neither the student nor the catalogue has the network with BatchNorm.
        """
        curvature = {"curvature": self.teacher_curvature, "curvature_step": self.teacher_curvature_step}
        return self.teacher_runs(real, students.batch_norm_student(make_student), rng, **curvature)

    def parts(self, real: RealData, *, make_student: MakeStudent, rng: Generator) -> Plan[objectives.StatisticsTeacher]:
        """Return statistics matching under one fixed teacher, which labels the result."""
        runs = self.runs(real, make_student=make_student, rng=rng)

        def relabel(syn: SyntheticSet, key: Generator) -> SyntheticSet:
            return synthetic.relabelled(syn, runs.network(0), key, temperature=self.temperature or 1.0)

        return running.Plan(
            syn=pixel_set(real, self.ipc, self.start, rng, bounded=True),
            objective=objectives.StatisticsMatch(
                weight=self.weight, batch=self.batch, augmentation=data.Augmentation(self.augmentation)
            ),
            students=students.FixedTeachers(lambda i: objectives.StatisticsTeacher(runs.network(i))),
            make_optimizer=partial(adam_on_images, lr=self.image_lr, betas=(0.5, 0.9)),
            steps=self.steps,
            rate_at=lambda step: (1 + math.cos(math.pi * min(1, step / self.steps))) / 2,
            finish=None if self.temperature is None else relabel,
        )

    def evaluation(self, real: RealData) -> Evaluation:
        """Return the protocol of DSA and DM, named after the stored teacher labels."""
        return self.labelled(augmentation_for(real, None))
