"""CAFE: features of all layers, aligned along the training of a student, and discriminative ones."""

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
    """Condensation by aligning features: layer-wise class means, and centres that separate real images.

    min_S sum_c sum_l w_l ||mean f_l(S_c) - mean f_l(T_c)||^2 + discrimination * sum over real (x, y) of
    CE(<f(x), centre_1..K>, y), where centre_c is the mean embedding of S_c. Students train on the set until their
    accuracy on real images moves, and are replaced once it has settled.

    Attributes:
        steps: Image steps, of all networks together.
        image_lr: Learning rate of the images (SGD). None takes the paper's 0.1.
        decay: Factor on `image_lr` after 60, 80 and 90 % of the steps.
        real_batch: Real images of each class in one step.
        augmentation: DSA operations joined by "_", for matching, students and evaluation; empty for none. None takes
            the published ones that suit the data: "CAFE+DSA".
        early_weight: Weight of the maps of all blocks before the last.
        last_weight: Weight of the map of the last block, and of the embedding.
        discrimination: Weight of the discrimination term; 0 leaves it out.
        student_lr: Learning rate of the networks (SGD without momentum).
        student_epochs: Epochs of a network on the set between two image steps at most.
        steps_per_student: Image steps for which a network serves at most.
        moved: Difference of its last 10 accuracies above which a network stops learning.
        settled: Difference of its last 10 accuracies below which a network stops serving.

    Differences from the published algorithm: `steps` counts image steps; the paper counts networks (2000), each of
    which serves for as many steps as its accuracy decides. Both dynamic loops have caps; the paper's code has none for
    some of them. Accuracies are those of `real_batch` random real images. Classes, channels and sizes are those of the
    data. The evaluation takes 300 epochs, as for DC, where the paper takes 600.

    References:
        Wang et al., "CAFE: Learning to Condense Dataset by Aligning Features", CVPR 2022, arXiv:2203.01531.
    """

    name: ClassVar[str] = "cafe"
    real_batch: PositiveInt = 256
    start: str = "noise"
    augmentation: str | None = ""
    decay: PositiveFloat = 0.5
    early_weight: NonNegativeFloat = 0.1
    last_weight: NonNegativeFloat = 1.0
    discrimination: NonNegativeFloat = 0.01
    student_lr: PositiveFloat = 0.01
    student_epochs: NonNegativeInt = 10
    steps_per_student: PositiveInt = 50
    moved: PositiveFloat = 0.03
    settled: PositiveFloat = 0.04

    def parts(self, real: RealData, *, make_student: MakeStudent, rng: Generator) -> Plan[Module]:
        """Return layer-wise matching with discrimination, under students that follow their accuracy."""
        augmentation, images = self.siamese(real), self.real_batch
        layers = objectives.ClassMatch(
            byproduct=objectives.layer_means,
            distance=objectives.LayerSquares((self.early_weight, self.last_weight, self.last_weight)),
            real_batch=images,
            augmentation=augmentation,
        )
        apart = objectives.Discrimination(real_batch=images, augmentation=augmentation)
        return running.Plan(
            syn=pixel_set(real, self.ipc, self.start, rng),
            objective=objectives.Total(((1.0, layers), (self.discrimination, apart))),
            students=students.PlateauStudents(
                make_student,
                students.OnSynthetic(epochs=1, augmentation=augmentation),
                students.accuracy_on(images),
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
