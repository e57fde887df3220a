"""Linear gradient matching: images that teach a linear probe on a frozen backbone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, final

import torch
from torch import nn

import ddsdk as dd
from ddsdk.foundation import PositiveFloat, PositiveInt
from ddsdk.objectives import CollectiveMatch, cosine, weight_gradients
from ddsdk.recipes import IterativeRecipe, adam_on_images, augmentation_for, pixel_set
from ddsdk.students import FreshStudents, MakeStudent
from ddsdk_integrations.finetune.backbone import FrozenBackbone


@final
@dataclass(frozen=True, kw_only=True)
class LinearGradientMatching(IterativeRecipe):
    """Match the gradient of a random linear classifier on the features of a frozen backbone.

    min_S E_W 1 - cos(grad_W L(W f(S)), grad_W L(W f(T))) over fresh heads W, both sides under one augmentation.

    Attributes:
        steps: Image steps.
        real_batch: Real images of each class in one step.
        image_lr: Learning rate of the images (Adam).
        start: Where the images start: noise, real, k-means, means or herding.
        augmentation: DSA operations joined by "_"; empty for none. None takes those that suit the data.

    Differences from the published algorithm: images are stored as pixels, where the paper has a pyramid of resolutions
    with decorrelated colours; heads have the variance of 1 / F.

    References:
        Cazenavette, Torralba and Sitzmann, "Dataset Distillation for Pre-Trained Self-Supervised Vision Models",
        NeurIPS 2025.
    """

    name: ClassVar[str] = "linear gradient matching"
    steps: PositiveInt = 1000
    real_batch: PositiveInt = 64
    image_lr: PositiveFloat = 0.02
    start: str = "noise"
    augmentation: str | None = None

    def parts(self, real: dd.RealData, *, make_student: MakeStudent, rng: torch.Generator) -> dd.Plan[nn.Module]:
        """Return matching of the head's gradients, all classes together.

        Raises:
            TypeError: If `make_student` is no `FrozenBackbone`: gradients of all weights would be matched.
        """
        if not isinstance(make_student, FrozenBackbone):
            raise TypeError(f"make_student must be a FrozenBackbone, got {type(make_student).__name__}")
        return dd.Plan(
            syn=pixel_set(real, self.ipc, self.start, rng),
            objective=CollectiveMatch(
                byproduct=weight_gradients,
                distance=cosine,
                real_batch=self.real_batch,
                augmentation=dd.Augmentation(augmentation_for(real, self.augmentation)),
            ),
            students=FreshStudents(make_student),
            make_optimizer=partial(adam_on_images, lr=self.image_lr),
            steps=self.steps,
        )

    def evaluation(self, real: dd.RealData) -> dd.Evaluation:
        """Return the protocol of a network from scratch, for want of a name for the backbone; see `probe_accuracy`."""
        return dd.Evaluation.published(augmentation_for(real, self.augmentation))
