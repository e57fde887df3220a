"""Multi-formation: each stored canvas is cut into tiles, and each tile enlarged to an image."""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from ddsdk.foundation import require, require_count
from ddsdk.synthetic.base import Bounds, Parametrization, check_images, clamp_, stored_images


@final
class MultiFormation(Parametrization):
    """Canvases of the size of an image, each of which decodes to factor x factor images of a lower resolution.

    A canvas that the factor does not divide is padded at the bottom and on the right by its own edge, which stores
    nothing. Factor 1 is `Pixels`.

    Args:
        canvases: Canvases, (M, C, H, W), copied.
        factor: Tiles along each side of a canvas, >= 1; each tile must hold a pixel.
        bounds: Bounds to which pixels are clamped after each step; None leaves them free.

    References:
        Kim et al., "Dataset Condensation via Efficient Synthetic-Data Parameterization", ICML 2022, arXiv:2205.14959.
    """

    def __init__(self, canvases: Tensor, factor: int, bounds: Bounds | None = None) -> None:
        super().__init__()
        self.canvases = stored_images("canvases", canvases)
        require_count("factor", factor)
        for side in canvases.shape[2:]:
            rule = f"leave pixels to each tile along a side of {side}"
            require((factor - 1) * math.ceil(side / factor) < side, "factor", rule, factor)
        self.factor, self._bounds = factor, bounds

    def encode(self, images: Tensor) -> None:
        """Shrink `images`, (M*factor^2, C, H, W), into the tiles."""
        m, c, height, width = self.canvases.shape
        f, (tall, wide) = self.factor, self._tile
        check_images(images, (m * f * f, c, height, width))
        small = images if f == 1 else interpolate(images, (tall, wide), mode="bilinear", antialias=True)
        grid = small.view(m, f, f, c, tall, wide).permute(0, 3, 1, 4, 2, 5)
        with torch.no_grad():
            self.canvases.copy_(grid.reshape(m, c, f * tall, f * wide)[:, :, :height, :width])

    def decode(self, slots: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """Return factor^2 images for each of `slots`, tile by tile from the top left; nothing is random."""
        f, (tall, wide) = self.factor, self._tile
        canvases = self.canvases[slots]
        if f == 1:
            return canvases, slots
        b, c, height, width = canvases.shape
        whole = pad(canvases, (0, f * wide - width, 0, f * tall - height), mode="replicate")
        tiles = whole.view(b, c, f, tall, f, wide).permute(0, 2, 4, 1, 3, 5).reshape(b * f * f, c, tall, wide)
        images = interpolate(tiles, (height, width), mode="bilinear", align_corners=False)
        return images, slots.repeat_interleave(f * f)

    def project_(self) -> None:
        """Clamp the pixels to their bounds, if there are any."""
        clamp_(self.canvases, self._bounds)

    @property
    def _tile(self) -> tuple[int, int]:
        height, width = self.canvases.shape[2:]
        return math.ceil(height / self.factor), math.ceil(width / self.factor)
