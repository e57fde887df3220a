"""Linear gradient matching: distillation for linear probes on a frozen pretrained backbone."""

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
from ddsdk.students import BackboneStudents, FreshStudents, MakeStudent


@final
class _Features(nn.Module):
    """The features of a backbone whose weights are no parameters: no optimizer and no objective can reach them."""

    def __init__(self, backbone: nn.Module, features: int) -> None:
        super().__init__()
        self._count = features
        # PyTorch does not register a module in a tuple, so the student has neither its parameters nor its layers.
        self._unregistered = (backbone,)

    def forward(self, x: Tensor) -> Tensor:
        (backbone,) = self._unregistered
        features: Tensor = getattr(backbone, "embed", backbone)(x).flatten(1)
        require(features.shape[1] == self._count, "features", f"be {features.shape[1]}", self._count)
        return features


@final
class FrozenBackbone:
    """A student factory on a module without a name: a frozen backbone with a random linear head.

    `ddsdk.students.BackboneStudents` is for a `ddsdk.networks.Backbone`, whose name and hash the artefact states.

    Recipes that match embeddings match the backbone's features. Recipes that match gradients or train their students
    have the head as the only parameters. The backbone is copied and put into eval mode.

    Args:
        backbone: Network from images (B, C, H, W) to features, by its method `embed` or a call; on the device of the
            data.
        features: Number of features F.
        num_classes: Number of classes K of the real data.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.finetune import FrozenBackbone
        >>> real = ddsdk.load("digits")
        >>> backbone = ddsdk.network_factory("mlp", real.image_shape, 10, width=16)(ddsdk.generator(0))
        >>> make_student = FrozenBackbone(backbone, features=16, num_classes=10)
        >>> len(ddsdk.distill(ddsdk.DM(ipc=1, steps=2, real_batch=16), real, make_student=make_student))
        10
    """

    def __init__(self, backbone: nn.Module, *, features: int, num_classes: int) -> None:
        require_count("features", features)
        require_count("num_classes", num_classes)
        self._features = _Features(copy.deepcopy(backbone).eval().requires_grad_(False), features)
        self._shape = (num_classes, features)

    def __call__(self, rng: torch.Generator) -> Network:
        """Return the backbone with a new head: normal weights of variance 1 / F from `rng`, and zero biases."""
        classes, features = self._shape
        head = nn.Linear(features, classes)
        with torch.no_grad():
            head.weight.copy_(torch.randn(self._shape, generator=rng) / features**0.5)
            head.bias.zero_()
        return Network(self._features, head)


@final
@dataclass(frozen=True, kw_only=True)
class LinearGradientMatching(IterativeRecipe):
    """Linear gradient matching: match the gradients of random linear classifiers on features of a frozen backbone.

    min_S E_W 1 - cos(grad_W L(W f(S)), grad_W L(W f(T))) over fresh heads W, with one siamese augmentation of both
    sides. Its students must be `ddsdk.students.BackboneStudents` or a `FrozenBackbone`.

    Attributes:
        steps: Outer steps, one update of the images each.
        real_batch: Real images of each class in one step.
        image_lr: Learning rate of the images (Adam).
        start: Initial images: noise, real, k-means, means or herding.
        augmentation: DSA operations joined by "_"; empty for none. None takes those that suit the data.

    Differences from the published algorithm: images are pixels, where the paper optimises a pyramid of resolutions with
    decorrelated colours; weights of heads have variance 1 / F.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.finetune import FrozenBackbone, LinearGradientMatching
        >>> real = ddsdk.load("digits")
        >>> backbone = ddsdk.network_factory("mlp", real.image_shape, 10, width=16)(ddsdk.generator(0))
        >>> make_student = FrozenBackbone(backbone, features=16, num_classes=10)
        >>> len(ddsdk.distill(LinearGradientMatching(ipc=1, steps=2, real_batch=16), real, make_student=make_student))
        10

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
        """Return matching of the heads' gradients on a batch of all classes.

        Raises:
            TypeError: If `make_student` has no frozen backbone; other students would match gradients of all weights.
        """
        if not isinstance(make_student, FrozenBackbone | BackboneStudents):
            given = type(make_student).__name__
            raise TypeError(f"make_student must be BackboneStudents or a FrozenBackbone, got {given}")
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

    def protocol(self, real: dd.RealData) -> dd.TrainingProtocol:
        """Return the protocol of training a network from scratch, for a `FrozenBackbone`, which has no name or hash.

        A run with `ddsdk.students.BackboneStudents` stores the protocol of a linear probe in its place.
        """
        return dd.TrainingProtocol.published(augmentation_for(real, self.augmentation))
