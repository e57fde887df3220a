"""Multi-formation: each stored canvas is cut into tiles, and each tile enlarged to an image."""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad

from ddsdk.foundation import require, require_count
from ddsdk.synthetic.base import Bounds, Parametrization


@final
class MultiFormation(Parametrization):
    """Canvases of the size of an image, each of which decodes to factor x factor images of a lower resolution.

    A canvas that the factor does not divide is padded at the bottom and on the right by its own edge, which stores
    nothing. Factor 1 is `Pixels`.

    Args:
        canvases: (M, C, H, W), copied.
        factor: Tiles along each side, >= 1.
        bounds: Pixels are clamped to these after each step; None leaves them free.

    Raises:
        ValueError: If `canvases` is not a finite 4-d tensor, or a tile would hold nothing but padding.

    References:
        Kim et al., "Dataset Condensation via Efficient Synthetic-Data Parameterization", ICML 2022, arXiv:2205.14959.
    """

    def __init__(self, canvases: Tensor, factor: int, bounds: Bounds | None = None) -> None:
        super().__init__()
        require(canvases.ndim == 4, "canvases", "have shape (M, C, H, W)", tuple(canvases.shape))
        require(bool(torch.isfinite(canvases).all()), "canvases", "be finite", "NaN or infinity")
        require_count("factor", factor)
        for side in canvases.shape[2:]:
            rule = f"leave pixels to each tile along a side of {side}"
            require((factor - 1) * math.ceil(side / factor) < side, "factor", rule, factor)
        self.canvases = nn.Parameter(canvases.detach().clone(memory_format=torch.contiguous_format))
        self._factor = factor
        self._bounds = bounds

    def encode(self, images: Tensor) -> None:
        """Shrink `images`, (M*factor^2, C, H, W), into the tiles."""
        m, c, height, width = self.canvases.shape
        f = self._factor
        wanted = (m * f * f, c, height, width)
        require(tuple(images.shape) == wanted, "images", f"have shape {wanted}", tuple(images.shape))
        require(bool(torch.isfinite(images).all()), "images", "be finite", "NaN or infinity")
        tall, wide = self._tile
        small = images if f == 1 else interpolate(images, (tall, wide), mode="bilinear", antialias=True)
        grid = small.view(m, f, f, c, tall, wide).permute(0, 3, 1, 4, 2, 5)
        with torch.no_grad():
            self.canvases.copy_(grid.reshape(m, c, f * tall, f * wide)[:, :, :height, :width])

    def decode(self, slots: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """Return factor^2 images for each of `slots`, tile by tile from the top left; nothing is random."""
        f, (tall, wide) = self._factor, self._tile
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
        if self._bounds is not None:
            self.canvases.clamp_(*(b.to(self.canvases.device) for b in self._bounds))

    @property
    def factor(self) -> int:
        """Tiles along each side of a canvas."""
        return self._factor

    def stored_floats(self) -> int:
        """Return M*C*H*W: as many as plain pixels."""
        return self.canvases.numel()

    @property
    def _tile(self) -> tuple[int, int]:
        height, width = self.canvases.shape[2:]
        return math.ceil(height / self._factor), math.ceil(width / self._factor)
