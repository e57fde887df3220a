"""Tileable canvases: larger than an image, with periodic edges, and decoded through random windows."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from ddsdk.foundation import require, require_count
from ddsdk.synthetic.base import Bounds, Parametrization, check_images, clamp_, stored_images


@final
class TileableCanvas(Parametrization):
    """One canvas for each slot, which decodes to windows at random positions that wrap around its edges.

    All pixels appear equally often, and pixels at opposite edges appear next to each other. An objective that matches
    the windows therefore makes the canvas periodic. A canvas stores as many floats as it has pixels, several times
    those of an image.

    Args:
        canvases: Initial canvases, (M, C, H, W), which are copied.
        window: Height and width of an image in pixels, at most those of a canvas.
        windows: Number of images to which each slot decodes.
        wrap: Whether windows wrap around. If false they stay inside the canvas, for comparison, and rarely contain its
            edges.
        bounds: Bounds to which pixels are clamped after each step; None for no bounds.

    References:
        Cazenavette, Wang, Torralba, Efros and Zhu, "Wearable ImageNet: Synthesizing Tileable Textures via Dataset
        Distillation", CVPR Workshops 2022.

    Examples:
        >>> import ddsdk, torch
        >>> canvas = ddsdk.synthetic.TileableCanvas(torch.zeros(10, 1, 16, 16), window=(8, 8), windows=3)
        >>> images, slots = canvas.decode(torch.tensor([4]), ddsdk.generator(0))
        >>> tuple(images.shape), slots.tolist()
        ((3, 1, 8, 8), [4, 4, 4])
    """

    def __init__(
        self,
        canvases: Tensor,
        window: tuple[int, int],
        *,
        windows: int = 1,
        wrap: bool = True,
        bounds: Bounds | None = None,
    ) -> None:
        super().__init__()
        self.canvases = stored_images("canvases", canvases)
        require_count("windows", windows)
        size = tuple(canvases.shape[2:])
        fits = len(window) == 2 and all(1 <= side <= most for side, most in zip(window, size, strict=True))
        require(fits, "window", f"have two sides of 1 to {size} pixels", window)
        self._window, self._windows, self._wrap, self._bounds = tuple(window), windows, wrap, bounds

    def encode(self, images: Tensor) -> None:
        """Tile each canvas with the mean of the `images`, (M*windows, C, h, w), of its slot."""
        m, c, *size = self.canvases.shape
        check_images(images, (m * self._windows, c, *self._window))
        mean = images.view(m, self._windows, c, *self._window).mean(1)
        repeats = [-(-side // short) for side, short in zip(size, self._window, strict=True)]
        with torch.no_grad():
            self.canvases.copy_(mean.repeat(1, 1, *repeats)[:, :, : size[0], : size[1]])

    def decode(self, slots: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return `windows` images of each of `slots`, at freshly drawn positions."""
        owners = slots.repeat_interleave(self._windows)
        indices = []
        for side, short in zip(self.canvases.shape[2:], self._window, strict=True):
            positions = side if self._wrap else side - short + 1
            first = torch.randint(positions, (len(owners), 1), generator=rng)
            indices.append(((first + torch.arange(short)) % side).to(self.canvases.device))
        rows, columns = indices
        images = self.canvases.movedim(1, 3)[owners[:, None, None], rows[:, :, None], columns[:, None]]
        return images.movedim(3, 1), owners

    def project_(self) -> None:
        """Clamp the pixels to the bounds, if any."""
        clamp_(self.canvases, self._bounds)
