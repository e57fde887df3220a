"""Canvases that tile: larger than an image, without an edge, and seen through a window that wraps around."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from ddsdk.foundation import require, require_count
from ddsdk.synthetic.base import Bounds, Parametrization, check_images, clamp_, stored_images


@final
class TileableCanvas(Parametrization):
    """A canvas for each slot, which decodes to windows at random places that wrap around its edges.

    All pixels are seen equally often, and those at opposite edges beside each other, so that whatever matches the
    windows makes a canvas that continues where it begins. A canvas stores as many floats as it has pixels, several
    times those of an image.

    Args:
        canvases: Canvases, (M, C, H, W), copied.
        window: Height and width of an image, not above those of a canvas.
        windows: Images to which each slot decodes.
        wrap: Whether windows wrap around; if false they stay inside, for comparison, and rarely show the edges.
        bounds: Bounds to which pixels are clamped after each step; None leaves them free.

    References:
        Cazenavette, Wang, Torralba, Efros and Zhu, "Wearable ImageNet: Synthesizing Tileable Textures via Dataset
        Distillation", CVPR Workshops 2022.
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
        require(fits, "window", f"have two sides of 1 to {size}", window)
        self._window, self._windows, self._wrap, self._bounds = tuple(window), windows, wrap, bounds

    def encode(self, images: Tensor) -> None:
        """Fill each canvas with the mean of its slot's `images`, (M*windows, C, h, w), again and again."""
        m, c, *size = self.canvases.shape
        check_images(images, (m * self._windows, c, *self._window))
        mean = images.view(m, self._windows, c, *self._window).mean(1)
        repeats = [-(-side // short) for side, short in zip(size, self._window, strict=True)]
        with torch.no_grad():
            self.canvases.copy_(mean.repeat(1, 1, *repeats)[:, :, : size[0], : size[1]])

    def decode(self, slots: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return `windows` images of each of `slots`, at places that are drawn anew."""
        owners = slots.repeat_interleave(self._windows)
        picks = []
        for side, short in zip(self.canvases.shape[2:], self._window, strict=True):
            places = side if self._wrap else side - short + 1
            first = torch.randint(places, (len(owners), 1), generator=rng)
            picks.append(((first + torch.arange(short)) % side).to(self.canvases.device))
        rows, columns = picks
        found = self.canvases.movedim(1, 3)[owners[:, None, None], rows[:, :, None], columns[:, None]]
        return found.movedim(3, 1), owners

    def project_(self) -> None:
        """Clamp the pixels to their bounds, if there are any."""
        clamp_(self.canvases, self._bounds)
