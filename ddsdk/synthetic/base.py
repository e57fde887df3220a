"""Parametrizations: the stored tensors of a synthetic set, and the images that they decode to."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from ddsdk.foundation import require

Bounds = tuple[Tensor, Tensor]
"""Lowest and highest pixel value of each channel, (C, 1, 1) each: the unit range [0, 1] after preprocessing."""


class Parametrization(nn.Module, ABC):
    """Stored tensors that decode to images.

    A synthetic set has *slots* 0..M-1, one for each stored label. A slot decodes to one image or to several. Subclasses
    are final.

    Attributes:
        joint: Whether images depend on each other, as the nodes of a graph do. Each slot then decodes to one image, and
            all slots are decoded together, even if only some are needed.

    Examples:
        >>> import torch
        >>> from ddsdk.synthetic import Pixels
        >>> pixels = Pixels(torch.zeros(10, 1, 8, 8))
        >>> images, owners = pixels.decode(torch.arange(3), torch.Generator())
        >>> tuple(images.shape), owners.tolist(), pixels.stored_floats()
        ((3, 1, 8, 8), [0, 1, 2], 640)
    """

    joint: ClassVar[bool] = False

    @abstractmethod
    def encode(self, images: Tensor) -> None:
        """Set the stored tensors such that all slots decode to `images` as closely as possible.

        Args:
            images: Images in the order of the slots, (M', C, H, W), where M' is the number of images of all slots.
        """

    @abstractmethod
    def decode(self, slots: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return the images of `slots`, and the slot of each image.

        Args:
            slots: Slot numbers in 0..M-1, (B,) int64.
            rng: Generator of stochastic decoders; deterministic decoders do not use it.

        Returns:
            Images (B', C, H, W) with graph to the stored tensors, and their slots (B',) int64.
        """

    def pull_back_(self, slots: Tensor, gradient: Tensor, rng: torch.Generator) -> None:
        """Add the gradient of the images of `slots`, (B', C, H, W), to the gradients of the stored tensors.

        Parametrizations whose slots are rows of one tensor override it: a gradient of a few rows as a tensor of all
        rows costs two passes over the set for each class.
        """
        images, _ = self.decode(slots, rng)
        torch.autograd.backward(images, gradient)

    def project_(self) -> None:
        """Project the stored tensors to their admissible range, in place, after an optimizer step."""

    def stored_floats(self) -> int:
        """Return the number of floats that a file must hold to decode the images: the storage of the set."""
        return sum(t.numel() for t in self.state_dict().values() if t.is_floating_point())


def stored(name: str, values: Tensor) -> nn.Parameter:
    """Return a trainable parameter with a contiguous copy of `values`, which must be finite."""
    require(bool(torch.isfinite(values).all()), name, "be finite", "NaN or infinity")
    return nn.Parameter(values.detach().clone(memory_format=torch.contiguous_format))


def stored_images(name: str, values: Tensor) -> nn.Parameter:
    """Return a trainable parameter with a contiguous copy of `values`, which must be finite images (M, C, H, W)."""
    require(values.ndim == 4, name, "have shape (M, C, H, W)", tuple(values.shape))
    return stored(name, values)


def check_images(images: Tensor, shape: tuple[int, ...]) -> None:
    """Raise ValueError unless `images` are finite and have the shape `shape`."""
    require(tuple(images.shape) == shape, "images", f"have shape {shape}", tuple(images.shape))
    require(bool(torch.isfinite(images).all()), "images", "be finite", "NaN or infinity")


def add_row_gradients_(values: nn.Parameter, rows: Tensor, gradient: Tensor) -> None:
    """Add gradients (B, ...) of the rows `rows`, (B,) int64, to the gradient of a parameter."""
    if values.grad is None:
        values.grad = torch.zeros_like(values)
    values.grad.index_add_(0, rows, gradient)


def clamp_(values: Tensor, bounds: Bounds | None) -> None:
    """Clamp pixels to `bounds`, in place; None leaves them unchanged."""
    if bounds is not None:
        values.clamp_(*(b.to(values.device) for b in bounds))
