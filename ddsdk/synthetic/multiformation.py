"""Multi-formation: each stored canvas is cut into tiles, and each tile is enlarged to an image."""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from ddsdk.foundation import require, require_count
from ddsdk.synthetic.base import Bounds, Parametrization, add_row_gradients_, check_images, clamp_, stored_images


@final
class MultiFormation(Parametrization):
    """Canvases of the size of an image, each of which decodes to factor x factor images of lower resolution.

    A canvas whose sides `factor` does not divide is padded at the bottom and on the right with its edge pixels; the
    padding is not stored. Factor 1 is equal to `Pixels`.

    Args:
        canvases: Initial canvases, (M, C, H, W), which are copied.
        factor: Tiles along each side of a canvas, at least 1; each tile must contain a pixel.
        bounds: Bounds to which pixels are clamped after each step; None for no bounds.

    References:
        Kim et al., "Dataset Condensation via Efficient Synthetic-Data Parameterization", ICML 2022, arXiv:2205.14959.

    Examples:
        >>> import ddsdk, torch
        >>> tiles = ddsdk.synthetic.MultiFormation(torch.zeros(10, 1, 8, 8), factor=2)
        >>> images, slots = tiles.decode(torch.tensor([7]), ddsdk.generator(0))
        >>> tuple(images.shape), slots.tolist()
        ((4, 1, 8, 8), [7, 7, 7, 7])
    """

    def __init__(self, canvases: Tensor, factor: int, bounds: Bounds | None = None) -> None:
        super().__init__()
        self.canvases = stored_images("canvases", canvases)
        require_count("factor", factor)
        for side in canvases.shape[2:]:
            rule = f"leave at least one pixel for each tile along a side of {side} pixels"
            require((factor - 1) * math.ceil(side / factor) < side, "factor", rule, factor)
        self.factor, self._bounds = factor, bounds

    def encode(self, images: Tensor) -> None:
        """Shrink `images`, (M*factor^2, C, H, W), to the size of the tiles."""
        m, c, height, width = self.canvases.shape
        f, (tile_height, tile_width) = self.factor, self._tile
        check_images(images, (m * f * f, c, height, width))
        tiles = images if f == 1 else interpolate(images, (tile_height, tile_width), mode="bilinear", antialias=True)
        grid = tiles.view(m, f, f, c, tile_height, tile_width).permute(0, 3, 1, 4, 2, 5)
        with torch.no_grad():
            self.canvases.copy_(grid.reshape(m, c, f * tile_height, f * tile_width)[:, :, :height, :width])

    def decode(self, slots: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """Return factor^2 images for each of `slots`, row by row from the top left tile; decoding is deterministic."""
        return self._cut(self.canvases[slots]), slots.repeat_interleave(self.factor**2)

    def pull_back_(self, slots: Tensor, gradient: Tensor, rng: torch.Generator) -> None:  # noqa: ARG002
        """Add the gradient to the canvases of the slots."""
        canvases = self.canvases.detach()[slots].requires_grad_()
        (canvas_gradient,) = torch.autograd.grad(self._cut(canvases), canvases, gradient)
        add_row_gradients_(self.canvases, slots, canvas_gradient)

    def _cut(self, canvases: Tensor) -> Tensor:
        f, (tile_height, tile_width) = self.factor, self._tile
        if f == 1:
            return canvases
        b, c, height, width = canvases.shape
        padded = pad(canvases, (0, f * tile_width - width, 0, f * tile_height - height), mode="replicate")
        grid = padded.view(b, c, f, tile_height, f, tile_width).permute(0, 2, 4, 1, 3, 5)
        tiles = grid.reshape(b * f * f, c, tile_height, tile_width)
        return interpolate(tiles, (height, width), mode="bilinear", align_corners=False)

    def project_(self) -> None:
        """Clamp the pixels to the bounds, if any."""
        clamp_(self.canvases, self._bounds)

    @property
    def _tile(self) -> tuple[int, int]:
        height, width = self.canvases.shape[2:]
        return math.ceil(height / self.factor), math.ceil(width / self.factor)
