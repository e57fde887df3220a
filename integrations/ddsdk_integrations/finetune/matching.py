"""A pretrained network as a supply of students, and linear gradient matching: images that teach a probe on it."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, final

import torch
from torch import Tensor, nn

import ddsdk as dd
from ddsdk.foundation import PositiveFloat, PositiveInt, require, require_count
from ddsdk.networks import Network
from ddsdk.objectives import CollectiveMatch, cosine, weight_gradients
from ddsdk.recipes import IterativeRecipe, adam_on_images, augmentation_for, pixel_set
from ddsdk.students import FreshStudents, MakeStudent


@final
class _Features(nn.Module):
    """The backbone, hidden: its weights are constants, which no optimizer trains and no objective differentiates by."""

    def __init__(self, backbone: nn.Module, features: int) -> None:
        super().__init__()
        self._count = features
        # A module in a tuple is not registered: neither its parameters nor its layers are those of the student.
        self._held = (backbone,)

    def forward(self, x: Tensor) -> Tensor:
        (backbone,) = self._held
        found: Tensor = getattr(backbone, "embed", backbone)(x).flatten(1)
        require(found.shape[1] == self._count, "features", f"be {found.shape[1]}", self._count)
        return found


@final
class FrozenBackbone:
    """A factory of students for any recipe: the backbone's features under a random linear head.

    A recipe that matches embeddings matches the features of the backbone; one that matches gradients, or trains its
    students, sees the head alone. The backbone is copied and put into eval mode.

    Args:
        backbone: Network from images (B, C, H, W) to features by `embed`, or by a call; on the device of the data.
        features: Number of features F.
        num_classes: Number of classes K of the data to distil.
    """

    def __init__(self, backbone: nn.Module, *, features: int, num_classes: int) -> None:
        require_count("features", features)
        require_count("num_classes", num_classes)
        self._features = _Features(copy.deepcopy(backbone).eval().requires_grad_(False), features)
        self._shape = (num_classes, features)

    def __call__(self, rng: torch.Generator) -> Network:
        """Return the backbone under a head with normal weights of variance 1 / F from `rng`, and no bias at first."""
        classes, features = self._shape
        head = nn.Linear(features, classes)
        with torch.no_grad():
            head.weight.copy_(torch.randn(self._shape, generator=rng) / features**0.5)
            head.bias.zero_()
        return Network(self._features, head)


@final
@dataclass(frozen=True, kw_only=True)
class LinearGradientMatching(IterativeRecipe):
    """Match the gradient of a random linear classifier on the features of a frozen backbone.

    min_S E_W 1 - cos(grad_W L(W f(S)), grad_W L(W f(T))) over fresh heads W, both sides under one augmentation.

    Attributes:
        steps: Image steps.
        real_batch: Real images of each class in one step.
        image_lr: Learning rate of the images (Adam).
        start: Start of the images: noise, real, k-means, means or herding.
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
