"""The plain parametrization: every pixel is a parameter."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from ddsdk.synthetic.base import Bounds, Parametrization, add_row_gradients_, check_images, clamp_, stored_images


@final
class Pixels(Parametrization):
    """One image for each slot, stored after preprocessing.

    Args:
        images: Initial images, (M, C, H, W), finite, which are copied.
        bounds: Bounds to which pixels are clamped after each step; None for no bounds.

    Examples:
        >>> import ddsdk, torch
        >>> pixels = ddsdk.synthetic.Pixels(torch.zeros(10, 1, 8, 8))
        >>> images, _ = pixels.decode(torch.arange(4), ddsdk.generator(0))
        >>> tuple(images.shape)
        (4, 1, 8, 8)
    """

    def __init__(self, images: Tensor, bounds: Bounds | None = None) -> None:
        super().__init__()
        self.images, self._bounds = stored_images("images", images), bounds

    def encode(self, images: Tensor) -> None:
        """Copy `images`, (M, C, H, W), to the parameter."""
        check_images(images, tuple(self.images.shape))
        with torch.no_grad():
            self.images.copy_(images)

    def decode(self, slots: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """Return the images at `slots`; decoding is deterministic."""
        return self.images[slots], slots

    def pull_back_(self, slots: Tensor, gradient: Tensor, rng: torch.Generator) -> None:  # noqa: ARG002
        """Add the gradient to the rows of the parameter."""
        add_row_gradients_(self.images, slots, gradient)

    def project_(self) -> None:
        """Clamp the pixels to the bounds, if any."""
        clamp_(self.images, self._bounds)
