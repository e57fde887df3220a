"""DM: distribution matching."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar, final

from ddsdk import objectives, running, students
from ddsdk.recipes.distribution import DistributionMatching
from ddsdk.recipes.parts import pixel_set, sgd_on_images

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ddsdk.data import RealData
    from ddsdk.students import MakeStudent


@final
@dataclass(frozen=True, kw_only=True)
class DM(DistributionMatching):
    """Distribution matching: match the class means of the embeddings of random networks.

    min_S E_theta sum_c ||mean psi_theta(A(S_c)) - mean psi_theta(A(T_c))||^2 with one siamese augmentation A
    for each class (eq. 5); theta is drawn anew for every step and never trained.

    Attributes:
        steps: Image steps.
        image_lr: Learning rate of the images (SGD). None takes the paper's: 1, and 10 from ipc 100 on, because
            the mean divides each image's gradient by ipc.
        image_momentum: Momentum of the images.
        real_batch: Real images of each class in one step.
        start: Where the images start: noise, real, k-means, means or herding.
        augmentation: DSA operations joined by "_"; empty for none. None takes the published ones that suit the data:
            without flip unless the data is mirror-safe.

    Differences from the published algorithm: none for networks without BatchNorm. With it, the statistics are those
    of 16 real images of each class and stay frozen; the paper's code embeds the images of all classes in one batch.
    The evaluation keeps the momentum at the learning-rate decay, where the authors' code builds a new optimizer.

    References:
        Zhao and Bilen, "Dataset Condensation with Distribution Matching", WACV 2023, arXiv:2110.04181.
    """

    name: ClassVar[str] = "dm"
    image_momentum: float = 0.5
    real_batch: int = 256

    def check(self) -> None:
        """Check counts and rates."""
        self.check_fields(momenta="image_momentum")

    def parts(self, real: RealData, *, make_student: MakeStudent, rng: torch.Generator) -> running.Plan[nn.Module]:
        """Return squared matching of mean embeddings under fresh networks."""
        derived = 1.0 if self.ipc < 100 else 10.0
        return running.Plan(
            syn=pixel_set(real, self.ipc, self.start, rng),
            objective=objectives.ClassMatch(
                byproduct=objectives.mean_embedding,
                distance=objectives.squared,
                real_batch=self.real_batch,
                augmentation=self.siamese(real),
            ),
            students=students.FreshStudents(make_student),
            make_optimizer=partial(
                sgd_on_images, lr=derived if self.image_lr is None else self.image_lr, momentum=self.image_momentum
            ),
            steps=self.steps,
        )
