"""PSG: match noised gradients."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar, final

import ddsdk as dd
from ddsdk.foundation import Momentum, PositiveFloat, PositiveInt, derive
from ddsdk.recipes import sgd_on_images
from ddsdk.students import AlternatingStudents, OnSynthetic
from ddsdk_integrations.privacy.gradients import GradientLesson, MatchNoisedGradients, NoisedGradients
from ddsdk_integrations.privacy.guard import refuse_bad_student
from ddsdk_integrations.privacy.recipe import PrivateRecipe

if TYPE_CHECKING:
    import torch

    from ddsdk.students import MakeStudent
    from ddsdk_integrations.privacy.data import PrivateData


@final
@dataclass(frozen=True, kw_only=True)
class PSG(PrivateRecipe):
    """Private set generation: gradient matching along students that train on the set, with noised real gradients.

    min_S sum_t D(grad L(S; theta_t), g_t), g_t the noised sum of the clipped gradients of a Poisson sample over all
    classes, over its expected size, and D the sum over filters of 1 - cosine. One release for each image step.

    Attributes:
        students: Networks that are drawn, one after another.
        steps_per_student: Image steps for which a network serves.
        lesson_every: Image steps between two lessons of a network.
        student_epochs: Epochs on the set in a lesson.
        student_lr: Learning rate of the networks (SGD).
        image_lr: Learning rate of the images (SGD).
        image_momentum: Momentum of the images.
        sample_rate: The paper's samples have 256 of 60,000 records.
        clip: Norm of the gradient of a record, over the weights that are matched.
        augmentation: DSA operations joined by "_", one draw for each step; empty for none, as in the paper.
        classwise: Whether gradients are matched class by class, as DC does; the paper matches all classes at once.

    Differences from the published algorithm: gradients of biases and norms, which are never matched, are left out
    before rows are clipped. The paper makes 1000 times 100 releases at 10 images per class; these defaults make 2000,
    which a CPU does in some minutes, and so need less noise and take longer steps.

    References:
        Chen, Kerkouche and Fritz, "Private Set Generation with Discriminative Information", NeurIPS 2022.
    """

    name: ClassVar[str] = "psg"
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
    ) -> dd.Plan[GradientLesson]:
        """Return matching of gradients, each released when its step comes."""
        refuse_bad_student(make_student)
        steps = self.students * self.steps_per_student
        students = AlternatingStudents(
            make_student,
            OnSynthetic(epochs=self.student_epochs),
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

    def evaluation(self, private: PrivateData) -> dd.Evaluation:  # noqa: ARG002
        """Return the published protocol of the field, with the recipe's augmentation."""
        return dd.Evaluation.published(self.augmentation)
