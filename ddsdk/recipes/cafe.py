"""CAFE: alignment of the features of all layers along the training of a student, with a discrimination loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, final

from ddsdk import objectives, running, students
from ddsdk.foundation import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from ddsdk.recipes.distribution import SGDMatching
from ddsdk.recipes.parts import pixel_set

if TYPE_CHECKING:
    from ddsdk.recipes.signature import Generator, MakeStudent, Module, Plan, RealData


@final
@dataclass(frozen=True, kw_only=True)
class CAFE(SGDMatching):
    """Condensation by aligning features: match the class means of all layers, with centres that separate real images.

    min_S sum_c sum_l w_l ||mean f_l(S_c) - mean f_l(T_c)||^2 + discrimination * sum over real (x, y) of CE(<f(x),
    centre_1..K>, y), where f_l are the features of layer l, f is the embedding, and centre_c is the mean embedding of
    S_c. A student trains on the set as long as its accuracy on real images changes, and is replaced when its accuracy
    has settled.

    Attributes:
        steps: Image steps, in total for all students.
        image_lr: Learning rate of the images (SGD); None for the published 0.1.
        decay: Factor on `image_lr` after each of 60, 80 and 90 % of the steps.
        real_batch: Real images per class in one image step.
        augmentation: DSA operations joined by "_", for matching, student training and evaluation; empty for none. None
            for the published operations that suit the data, which is "CAFE+DSA".
        early_weight: Weight of the feature maps of all blocks before the last.
        last_weight: Weight of the feature map of the last block; the embedding has twice this weight, because the
            authors' code counts it twice.
        discrimination: Weight of the discrimination loss; 0 for none.
        student_lr: Learning rate of the students (SGD without momentum).
        student_epochs: Largest number of epochs of a student on the set between two image steps. From 10 epochs on a
            student stops as soon as its accuracy has moved.
        steps_per_student: Largest number of image steps before a student is replaced.
        moved: Range of a student's last 10 accuracies above which it stops training between two image steps.
        settled: Range of a student's last 10 accuracies below which it is replaced.
        checked_images: Real images on which the accuracy of a student is measured.

    Differences from the published algorithm: `steps` counts image steps, while the paper counts students (2000), whose
    number of image steps depends on their accuracy. Both adaptive loops are bounded; in the paper's code some are not.
    Accuracies are those of random real images; the authors' code takes equally many of each class, and adds a tenth of
    the previous accuracy to each. The discrimination draws its real images and their augmentation anew, in the authors'
    code they are those of the matching. Classes, channels and image sizes are those of the data. The evaluation takes
    300 epochs, as for DC; the paper's takes 600.

    References:
        Wang et al., "CAFE: Learning to Condense Dataset by Aligning Features", CVPR 2022, arXiv:2203.01531.

    Examples:
        >>> import ddsdk
        >>> real = ddsdk.load("digits")
        >>> recipe = ddsdk.CAFE(ipc=1, steps=1, real_batch=16, student_epochs=1)
        >>> make_student = ddsdk.network_factory("convnet", real.image_shape, 10, width=4)
        >>> tuple(ddsdk.distill(recipe, real, make_student=make_student).images.shape)
        (10, 1, 8, 8)
    """

    name: ClassVar[str] = "cafe"
    needs = ("features", "stages")
    real_batch: PositiveInt = 256
    start: str = "noise"
    augmentation: str | None = ""
    decay: PositiveFloat = 0.5
    early_weight: NonNegativeFloat = 0.1
    last_weight: NonNegativeFloat = 1.0
    discrimination: NonNegativeFloat = 0.01
    student_lr: PositiveFloat = 0.01
    student_epochs: NonNegativeInt = 20
    steps_per_student: PositiveInt = 50
    moved: PositiveFloat = 0.03
    settled: PositiveFloat = 0.04
    checked_images: PositiveInt = 1280

    def parts(self, real: RealData, *, make_student: MakeStudent, rng: Generator) -> Plan[Module]:
        """Return layer-wise matching with the discrimination loss, under students with adaptive training."""
        augmentation, images = self.siamese(real), self.real_batch
        layers = objectives.ClassMatch(
            byproduct=objectives.layer_means,
            distance=objectives.LayerSquares((self.early_weight, self.last_weight, 2 * self.last_weight)),
            real_batch=images,
            augmentation=augmentation,
        )
        discrimination = objectives.Discrimination(real_batch=images, augmentation=augmentation)
        return running.Plan(
            syn=pixel_set(real, self.ipc, self.start, rng),
            objective=objectives.WeightedSum(((1.0, layers), (self.discrimination, discrimination))),
            students=students.PlateauStudents(
                make_student,
                students.TrainOnSynthetic(epochs=1, augmentation=augmentation),
                students.accuracy_on(self.checked_images),
                longest=self.steps_per_student,
                most_lessons=self.student_epochs,
                settled=self.settled,
                moved=self.moved,
                lr=self.student_lr,
            ),
            make_optimizer=self.sgd(0.1),
            steps=self.steps,
            rate_at=lambda step: self.decay ** sum(step >= at * self.steps for at in (0.6, 0.8, 0.9)),
        )
