"""PSG: gradient matching with noised gradients of the private records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar, final

import ddsdk as dd
from ddsdk.foundation import Momentum, PositiveFloat, PositiveInt, derive
from ddsdk.recipes import sgd_on_images
from ddsdk.students import AlternatingStudents, TrainOnSynthetic
from ddsdk_integrations.privacy.gradients import MatchNoisedGradients, NoisedGradients, NoisedGradientStudent
from ddsdk_integrations.privacy.recipe import PrivateRecipe
from ddsdk_integrations.privacy.refusals import refuse_bad_student

if TYPE_CHECKING:
    import torch

    from ddsdk.students import MakeStudent
    from ddsdk_integrations.privacy.data import PrivateData


@final
@dataclass(frozen=True, kw_only=True)
class PSG(PrivateRecipe):
    """PSG: gradient matching with noised real gradients, along students that train on the set.

    min_S sum_t D(grad L(S; theta_t), g_t). g_t is the noised sum of the clipped gradients of a Poisson sample over all
    classes, divided by its expected size, and D the sum over filters of 1 - cosine. Each image step is one release.

    Attributes:
        students: Number of student networks, used one after another.
        steps_per_student: Number of image steps with one student.
        lesson_every: Number of image steps between two trainings of a student on the set.
        student_epochs: Number of epochs of such a training.
        student_lr: Learning rate of the students (SGD).
        image_lr: Learning rate of the images (SGD).
        image_momentum: Momentum of the images, in 0 <= value < 1.
        sample_rate: Probability with which a record is in a sample; the default is the paper's, 256 of 60,000 records.
        clip: Norm to which the gradient of a record, with respect to the matched weights, is clipped.
        augmentation: DSA operations joined by "_", one draw for each step; empty for none, as in the paper.
        classwise: Whether gradients are matched class by class, as in DC; the paper matches all classes at once.

    Differences from the published algorithm: gradients of biases and normalisation layers, which are never matched, are
    left out before clipping. The paper uses 1000 students with 100 releases each at 10 images per class; the defaults
    use 2000 releases in total, which need less noise, with a larger step size, and take some minutes on a CPU.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.privacy import PSG, Budget, Ledger, PrivateData
        >>> real = ddsdk.load("digits").with_preprocess(ddsdk.Preprocess.unit(1))
        >>> private = PrivateData(real, Ledger(Budget(epsilon=1, delta=1e-5)), class_size=135)
        >>> student = ddsdk.network_factory("convnet", real.image_shape, 10, width=4)
        >>> recipe = PSG(ipc=1, students=1, steps_per_student=2)
        >>> ddsdk.distill(recipe, private, make_student=student).certificate.releases[0].count
        2

    References:
        Chen, Kerkouche and Fritz, "Private Set Generation with Discriminative Information", NeurIPS 2022.
    """

    name: ClassVar[str] = "psg"
    shortest: ClassVar[Mapping[str, int]] = {"students": 1, "steps_per_student": 1, "student_epochs": 1}
    students: PositiveInt = 40
    steps_per_student: PositiveInt = 50
    lesson_every: PositiveInt = 10
    student_epochs: PositiveInt = 10
    student_lr: PositiveFloat = 0.01
    image_lr: PositiveFloat = 5.0
    image_momentum: Momentum = 0.5
    sample_rate: float = 256 / 60_000
    clip: PositiveFloat = 0.1
    augmentation: str = ""
    classwise: bool = False

    def parts(
        self, private: PrivateData, *, make_student: MakeStudent, rng: torch.Generator
    ) -> dd.Plan[NoisedGradientStudent]:
        """Return the plan of gradient matching with one noised gradient in each step."""
        refuse_bad_student(make_student)
        steps = self.students * self.steps_per_student
        students = AlternatingStudents(
            make_student,
            TrainOnSynthetic(epochs=self.student_epochs),
            period=self.steps_per_student,
            every=self.lesson_every,
            lr=self.student_lr,
        )
        supply = NoisedGradients(
            private.mechanism("gradients", releases=steps, **self.terms),
            students,
            expected=self.expected(private),
            augmentation=dd.Augmentation(self.augmentation),
            classwise=self.classwise,
        )
        return dd.Plan(
            syn=self.pixels(private, derive(rng, "start")),
            objective=MatchNoisedGradients(),
            students=supply,
            make_optimizer=partial(sgd_on_images, lr=self.image_lr, momentum=self.image_momentum),
            steps=steps,
            average=self.average,
        )

    def protocol(self, private: PrivateData) -> dd.TrainingProtocol:  # noqa: ARG002
        """Return the published evaluation protocol of the field, with the recipe's augmentation."""
        return dd.TrainingProtocol.published(self.augmentation)
