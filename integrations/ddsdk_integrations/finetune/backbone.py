"""A pretrained network as a supply of students: its features stay, a linear head is drawn anew."""

from __future__ import annotations

import copy
from typing import final

import torch
from torch import Tensor, nn

from ddsdk.foundation import require, require_count
from ddsdk.networks import Network


@final
class _Features(nn.Module):
    """The backbone, hidden: its weights are constants, which no optimizer trains and no objective differentiates by."""

    def __init__(self, backbone: nn.Module, features: int) -> None:
        super().__init__()
        self._count = features
        # A module in a tuple is not registered: neither its parameters nor its layers are those of the student.
        self._held = (backbone,)

    def forward(self, x: Tensor) -> Tensor:
        """Return the features of images (B, C, H, W), (B, F).

        Raises:
            ValueError: If the backbone makes another number of features than was said.
        """
        (backbone,) = self._held
        embed = getattr(backbone, "embed", backbone)
        found: Tensor = embed(x).flatten(1)
        require(found.shape[1] == self._count, "features", f"be {found.shape[1]}", self._count)
        return found


@final
class FrozenBackbone:
    """Builds students for any recipe: the backbone's features under a random linear head.

    A recipe that matches embeddings matches the features of the backbone; one that matches gradients, or trains its
    students, sees the head alone. The backbone is copied and put into eval mode.

    Args:
        backbone: Maps images (B, C, H, W) to features by `embed`, or by a call; on the device of the data.
        features: How many, F.
        num_classes: K of the data to distil.

    Raises:
        ValueError: If a number is below 1.
    """

    def __init__(self, backbone: nn.Module, *, features: int, num_classes: int) -> None:
        require_count("features", features)
        require_count("num_classes", num_classes)
        self._features = _Features(copy.deepcopy(backbone).eval().requires_grad_(False), features)
        self._shape = (num_classes, features)

    def __call__(self, rng: torch.Generator) -> Network:
        """Return the backbone under a head with normal weights of variance 1 / F, and no bias at first.

        Args:
            rng: Draws the head.
        """
        classes, features = self._shape
        head = nn.Linear(features, classes)
        with torch.no_grad():
            head.weight.copy_(torch.randn(self._shape, generator=rng) / features**0.5)
            head.bias.zero_()
        return Network(self._features, head)
