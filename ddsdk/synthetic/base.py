"""Parametrizations: the numbers that a synthetic set stores, and the images that they decode to."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from ddsdk.foundation import require

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
            images: Images in the order of the slots, (M', C, H, W), as many as all slots decode to.
        """

    @abstractmethod
    def decode(self, slots: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return the images of `slots` and the slot that owns each.

        Args:
            slots: Slots, (B,) int64.
            rng: Root of stochastic decoders.

        Returns:
            Images (B', C, H, W) with graph to the stored tensors, and owners (B',) int64.
        """

    def project_(self) -> None:
        """Bring the stored tensors back to their admissible range, in place, after an optimizer step."""

    def stored_floats(self) -> int:
        """Return the number of floats that a file must hold to decode the images, so that budgets compare fairly."""
        return sum(t.numel() for t in self.state_dict().values() if t.is_floating_point())


def stored(name: str, values: Tensor) -> nn.Parameter:
    """Return a parameter with a contiguous copy of finite values."""
    require(bool(torch.isfinite(values).all()), name, "be finite", "NaN or infinity")
    return nn.Parameter(values.detach().clone(memory_format=torch.contiguous_format))


def stored_images(name: str, values: Tensor) -> nn.Parameter:
    """Return a parameter with a contiguous copy of finite images, (M, C, H, W)."""
    require(values.ndim == 4, name, "have shape (M, C, H, W)", tuple(values.shape))
    return stored(name, values)


def check_images(images: Tensor, wanted: tuple[int, ...]) -> None:
    """Raise ValueError unless `images` are finite and have the shape `wanted`."""
    require(tuple(images.shape) == wanted, "images", f"have shape {wanted}", tuple(images.shape))
    require(bool(torch.isfinite(images).all()), "images", "be finite", "NaN or infinity")


def clamp_(values: Tensor, bounds: Bounds | None) -> None:
    """Clamp pixels to their bounds, in place, if there are any."""
    if bounds is not None:
        values.clamp_(*(b.to(values.device) for b in bounds))
