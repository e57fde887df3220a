"""The plain parametrization: every pixel is a parameter."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from ddsdk.foundation import require
from ddsdk.synthetic.base import Bounds, Parametrization


@final
class Pixels(Parametrization):
    """One image for each slot, stored as it is in the value space.

    Args:
        images: (M, C, H, W), copied.
        bounds: Pixels are clamped to these after each step; None leaves them free.

    Raises:
        ValueError: If `images` is not a finite 4-d tensor.
    """

    def __init__(self, images: Tensor, bounds: Bounds | None = None) -> None:
        super().__init__()
        self._bounds = bounds
        require(images.ndim == 4, "images", "have shape (M, C, H, W)", tuple(images.shape))
        self.images = nn.Parameter(torch.empty_like(images, memory_format=torch.contiguous_format))
        self.encode(images)

    def encode(self, images: Tensor) -> None:
        """Copy `images`, (M, C, H, W)."""
        require(bool(torch.isfinite(images).all()), "images", "be finite", "NaN or infinity")
        with torch.no_grad():
            self.images.copy_(images)

    def decode(self, slots: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """Return the images at `slots`; nothing is random."""
        return self.images[slots], slots

    def project_(self) -> None:
        """Clamp the pixels to their bounds, if there are any."""
        if self._bounds is not None:
            self.images.clamp_(*(b.to(self.images.device) for b in self._bounds))

    def stored_floats(self) -> int:
        """Return M*C*H*W."""
        return self.images.numel()
