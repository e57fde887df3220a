"""What a synthetic set stores, and how images come out of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

Bounds = tuple[Tensor, Tensor]
"""Lowest and highest value of each channel, (C, 1, 1) each: where a unit range lies in the value space."""


class Parametrization(nn.Module, ABC):
    """Stored tensors that decode to images.

    A set has *slots* 0..M-1, one for each label that it stores. A slot may decode to several images.
    Subclasses are final.

    Attributes:
        joint: Whether images depend on each other, as the nodes of a graph do: then every slot decodes to one image,
            and all of them are decoded at once, however few are wanted.
    """

    joint: ClassVar[bool] = False

    @abstractmethod
    def encode(self, images: Tensor) -> None:
        """Set the stored tensors so that `decode` of all slots gives `images` as nearly as it can.

        Args:
            images: (M', C, H, W), as many as all slots decode to and in that order.
        """

    @abstractmethod
    def decode(self, slots: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return the images of `slots` and the slot that owns each.

        Args:
            slots: (B,) int64.
            rng: For stochastic decoders.

        Returns:
            Images (B', C, H, W) with graph to the stored tensors, and owners (B',) int64.
        """

    @abstractmethod
    def project_(self) -> None:
        """Bring the stored tensors back to their admissible range, in place, after an optimizer step."""

    @abstractmethod
    def stored_floats(self) -> int:
        """Return how many numbers a file must hold to decode the images, so that budgets compare fairly."""
