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
    from ddsdk.recipes.signature import (
        Generator,
        MakeStudent,
        Plan,
        RealData,
        SyntheticSet,
        TrainedRuns,
        TrainingProtocol,
    )


@final
@dataclass(frozen=True, kw_only=True)
class SRe2L(Decoupled, IterativeRecipe):
    """Squeeze, recover, relabel: images whose BatchNorm statistics in a teacher match those of the real data.

    A teacher f with BatchNorm is trained on the real data. Then each batch S with at most one image per class minimises
    CE(f(A(S)), y) + weight sum_l w_l (||mean_l(S) - m_l|| + ||var_l(S) - v_l||), w_1 = 10 and w_l = 1 for later layers.
    The images start as noise and are optimised by Adam (betas 0.5 and 0.9) with a cosine schedule. Finally one row of
    the teacher's softmax is stored for each image.

    Attributes:
        steps: Image steps, each of which updates all images.
        image_lr: Learning rate of the images (Adam), which falls to 0 along a cosine.
        weight: Weight of the distance of statistics.
        batch: Largest number of images in one batch, one per class; at least 2.
        start: Initialisation of the images: noise, real, k-means, means or herding.
        augmentation: Operations on the images during recovery, see `ddsdk.Augmentation`; crop shifts an image by at
            most an eighth of its side.
        teacher_epochs: Epochs of the teacher on the real data. A shorter training can give better images.
        teacher_curvature: Weight of the curvature of the teacher's loss with respect to the images, see
            `ddsdk.training.CurvaturePenalty`; 0 for none. With 100 this is GUARD (AAAI 2025, arXiv:2403.10045), for
            networks that are robust to adversarial attacks.
        teacher_curvature_step: Length of the finite-difference step of the curvature, in preprocessed pixel values.

    The teacher is the student network if it has BatchNorm, and otherwise the same network of the catalogue with
    norm="batch".

    Differences from the published algorithm: one label row is stored for each image; the paper stores one for each
    augmented view (FKD) and trains with a KL divergence. A teacher that labels batches during training is not offered.
    Networks train on these rows under the protocol of DC, DSA and DM. Shifted images are padded with zeros, not wrapped
    around. The teacher trains at a constant rate, and its statistics are those of about 512 real images under its last
    weights, not a moving average. Variances are unbiased on both sides. Pixels are clamped to the unit range, except
    under ZCA whitening.

    References:
        Yin, Xing and Shen, "Squeeze, Recover and Relabel: Dataset Condensation at ImageNet Scale From A New
        Perspective", NeurIPS 2023, arXiv:2306.13092.

    Examples:
        >>> import ddsdk, os
        >>> _ = os.environ.setdefault("DDSDK_CACHE", "cache")  # folder of the teacher
        >>> real = ddsdk.load("digits")
        >>> make_student = ddsdk.network_factory("convnet", real.image_shape, 10, width=4)
        >>> distilled = ddsdk.distill(ddsdk.SRe2L(ipc=1, steps=2, teacher_epochs=1), real, make_student=make_student)
        >>> tuple(distilled.images.shape), tuple(distilled.labels.shape)
        ((10, 1, 8, 8), (10, 10))
    """

    name: ClassVar[str] = "sre2l"
    training_fields = ("teacher_images", "teacher_epochs")
    needs = ("BatchNorm",)
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
        """Check the size of a batch."""
        require_count("batch", self.batch, least=2)

    def runs(self, real: RealData, *, make_student: MakeStudent, rng: Generator) -> TrainedRuns:
        """Return the training run whose last snapshot is the teacher.

        A student without BatchNorm that is no network of the catalogue is a ValueError.
        """
        curvature = {"curvature": self.teacher_curvature, "curvature_step": self.teacher_curvature_step}
        return self.teacher_runs(real, students.batch_norm_student(make_student), rng, **curvature)

    def parts(self, real: RealData, *, make_student: MakeStudent, rng: Generator) -> Plan[objectives.StatisticsTeacher]:
        """Return matching of BatchNorm statistics under one fixed teacher, which finally labels the images."""
        runs = self.runs(real, make_student=make_student, rng=rng)

        def relabel(syn: SyntheticSet, key: Generator) -> SyntheticSet:
            return synthetic.with_teacher_labels(syn, runs.network(0), key, temperature=self.temperature or 1.0)

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

    def protocol(self, real: RealData) -> TrainingProtocol:
        """Return the evaluation protocol of DC, DSA and DM, named after the stored teacher labels."""
        return self.labelled(augmentation_for(real, None))
