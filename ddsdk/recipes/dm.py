"""DM: distribution matching."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, final

import ddsdk as dd
from ddsdk.recipes.base import IterativeRecipe
from ddsdk.recipes.parts import pixel_set, sgd_on_images

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ddsdk.students.fresh import MakeStudent

__all__ = ["DM"]


@final
@dataclass(frozen=True, kw_only=True)
class DM(IterativeRecipe):
    """Distribution matching: match the class means of the embeddings of random networks.

    min_S E_theta sum_c ||mean psi_theta(A(S_c)) - mean psi_theta(A(T_c))||^2 with one siamese augmentation A
    for each class (eq. 5); theta is drawn anew for every step and never trained.

    Attributes:
        steps: Image steps.
        image_lr: Learning rate of the images (SGD). None takes the paper's: 1, and 10 from ipc 100 on, because
            the mean divides each image's gradient by ipc.
        image_momentum: Momentum of the images.
        real_batch: Real images of each class in one step.
        start: Where the images start: noise, real, k-means or herding.
        augmentation: DSA operations joined by "_"; empty for none.

    Differences from the published algorithm: none.

    References:
        Zhao and Bilen, "Dataset Condensation with Distribution Matching", WACV 2023, arXiv:2110.04181.
    """

    steps: int = 20_000
    image_lr: float | None = None
    image_momentum: float = 0.5
    real_batch: int = 256
    start: str = "real"
    augmentation: str = "color_crop_cutout_flip_scale_rotate"

    def plan(
        self, real: dd.RealData, *, make_student: MakeStudent, rng: torch.Generator
    ) -> dd.Plan[nn.Module]:
        """Return squared matching of mean embeddings under fresh networks."""
        derived = 1.0 if self.ipc < 100 else 10.0
        return dd.Plan(
            syn=pixel_set(real, self.ipc, self.start, rng),
            objective=dd.ClassMatch(
                byproduct=dd.mean_embedding,
                distance=dd.squared,
                real_batch=self.real_batch,
                augmentation=dd.Augmentation(self.augmentation),
            ),
            students=dd.FreshStudents(make_student),
            make_optimizer=partial(
                sgd_on_images,
                lr=derived if self.image_lr is None else self.image_lr,
                momentum=self.image_momentum,
            ),
            steps=self.steps,
        )

    def evaluation(self) -> dd.Evaluation:
        """Return the published protocol, with the recipe's augmentation."""
        return dd.Evaluation.published(self.augmentation)
