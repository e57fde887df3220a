"""CAFE: features of all layers, aligned along the training of a student, and discriminative ones."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar, final

from ddsdk import objectives, running, students
from ddsdk.foundation import require_count
from ddsdk.recipes.distribution import DistributionMatching
from ddsdk.recipes.parts import pixel_set, sgd_on_images

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ddsdk.data import RealData
    from ddsdk.students import MakeStudent


@final
@dataclass(frozen=True, kw_only=True)
class CAFE(DistributionMatching):
    """Condensation by aligning features: layer-wise class means, and centres that tell real images apart.

    min_S sum_c sum_l w_l ||mean f_l(S_c) - mean f_l(T_c)||^2 + discrimination * sum over real (x, y) of
    CE(<f(x), centre_1..K>, y), where centre_c is the mean embedding of S_c. Students train on the set until their
    accuracy on real images moves, and are replaced once it has settled.

    Attributes:
        steps: Image steps, of all networks together.
        image_lr: Learning rate of the images (SGD). None takes the paper's 0.1.
        decay: Factor on `image_lr` after 60, 80 and 90 % of the steps.
        image_momentum: Momentum of the images.
        real_batch: Real images of each class in one step.
        start: Where the images start: noise, real, k-means, means or herding.
        augmentation: DSA operations joined by "_", for matching, students and evaluation; empty for none. None takes
            the published ones that suit the data: "CAFE+DSA".
        early_weight: Weight of the maps of all blocks before the last.
        last_weight: Weight of the map of the last block, and of the embedding.
        discrimination: Weight of the discrimination term; 0 leaves it out.
        student_lr: Learning rate of the networks (SGD without momentum).
        student_epochs: Epochs of a network on the set between two image steps at most.
        steps_per_student: Image steps for which a network serves at most.
        moved: A network learns until its last 10 accuracies differ by more.
        settled: It serves until its last 10 accuracies differ by less.

    Differences from the published algorithm: `steps` counts image steps; the paper counts networks (2000), each of
    which serves for as many steps as its accuracy decides. Both dynamic loops have caps; the paper's code has none for
    some of them. Accuracies are those of `real_batch` random real images. Classes, channels and sizes are those of the
    data. The evaluation takes 300 epochs, as for DC, where the paper takes 600.

    References:
        Wang et al., "CAFE: Learning to Condense Dataset by Aligning Features", CVPR 2022, arXiv:2203.01531.
    """

    name: ClassVar[str] = "cafe"
    real_batch: int = 256
    start: str = "noise"
    augmentation: str | None = ""
    decay: float = 0.5
    image_momentum: float = 0.5
    early_weight: float = 0.1
    last_weight: float = 1.0
    discrimination: float = 0.01
    student_lr: float = 0.01
    student_epochs: int = 10
    steps_per_student: int = 50
    moved: float = 0.03
    settled: float = 0.04

    def check(self) -> None:
        """Check counts and rates."""
        self.check_fields(
            counts="steps_per_student",
            rates="student_lr decay moved settled",
            momenta="image_momentum",
            weights="early_weight last_weight discrimination",
        )
        require_count("student_epochs", self.student_epochs, least=0)

    def parts(self, real: RealData, *, make_student: MakeStudent, rng: torch.Generator) -> running.Plan[nn.Module]:
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
            make_optimizer=partial(
                sgd_on_images, lr=0.1 if self.image_lr is None else self.image_lr, momentum=self.image_momentum
            ),
            steps=self.steps,
            rate_at=lambda step: self.decay ** sum(step >= at * self.steps for at in (0.6, 0.8, 0.9)),
        )
