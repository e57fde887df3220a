"""Frequencies: each image is stored as a few coefficients of the discrete cosine transform (DCT)."""

from __future__ import annotations

import math
from typing import Literal, final, get_args

import torch
from torch import Tensor

from ddsdk.foundation import require, require_count
from ddsdk.synthetic.base import Parametrization, add_row_gradients_, check_images, stored

Mask = Literal["class", "all", "low"]
"""Choice of the stored frequencies, see `Frequencies`."""


@final
class Frequencies(Parametrization):
    """The k stored DCT coefficients of each channel of an image; all other coefficients are zero.

    F_uv = 2 / sqrt(HW) sum_ij x_ij cos(pi u (2i + 1) / 2H) cos(pi v (2j + 1) / 2W). These are the unnormalised DCT-II
    coefficients, with a factor of 2 for each axis, divided by 2 sqrt(HW). They are also the coefficients of the
    orthonormal DCT-II, but for a factor of sqrt(2) along each axis where the frequency is zero. All frequencies have
    the same ratio to the unnormalised coefficients, so that an SGD step with the rate r / (4HW) on F is one with the
    rate r on those.

    The frequencies are chosen once, from the initial images. They are integers, which `stored_floats` does not count.
    The mask of a class takes at most H*W bits; "low" needs no mask.

    Args:
        images: Initial images, (M, C, H, W), finite, which are projected on the chosen frequencies.
        classes: Class of each slot, (M,) int64.
        k: Number of stored coefficients of each channel, in 1..H*W.
        mask: Choice of the frequencies. "class": for each class the k frequencies of the largest variance over its
            initial images, where a coefficient is first averaged over channels. "all": those of the largest variance
            over all initial images. "low": the k lowest ones, ordered by u + v and then by u.

    References:
        Shin, Shin and Moon, "Frequency Domain-based Dataset Distillation", NeurIPS 2023, arXiv:2311.08819.

    Examples:
        >>> import ddsdk, torch
        >>> images = torch.rand(20, 1, 8, 8)
        >>> classes = ddsdk.synthetic.class_slots(10, 2)
        >>> frequencies = ddsdk.synthetic.Frequencies(images, classes, 16)
        >>> decoded, _ = frequencies.decode(torch.arange(20), ddsdk.generator(0))
        >>> tuple(decoded.shape), frequencies.stored_floats()  # 16 coefficients of each of 20 images
        ((20, 1, 8, 8), 320)
    """

    def __init__(self, images: Tensor, classes: Tensor, k: int, mask: Mask = "class") -> None:
        super().__init__()
        require(images.ndim == 4, "images", "have shape (M, C, H, W)", tuple(images.shape))
        check_images(images, tuple(images.shape))
        height, width = images.shape[2:]
        require(len(classes) == len(images), "classes", f"have length {len(images)}", len(classes))
        require_count("k", k)
        require(k <= height * width, "k", f"not exceed the {height * width} pixels of a channel", k)
        require(mask in get_args(Mask), "mask", f"be one of {list(get_args(Mask))}", mask)
        for name, side in (("row", height), ("column", width)):
            self.register_buffer(f"_{name}_cosines", cosines(side).to(images), persistent=False)
        self._row_cosines: Tensor
        self._column_cosines: Tensor
        groups = classes.to(images.device) if mask == "class" else torch.zeros_like(classes, device=images.device)
        all_coefficients = self._transformed(images.detach())
        order = lowest_frequencies(height, width).to(images.device)
        kept = order[None, :k] if mask == "low" else _varying(all_coefficients, groups, k, order)
        self.register_buffer("groups", groups.clone())
        self.register_buffer("kept", kept.sort(1).values)
        self.groups: Tensor
        self.kept: Tensor
        self._channels = images.shape[1]
        self.coefficients = stored("images", all_coefficients.gather(2, self._positions(slice(None))))

    def encode(self, images: Tensor) -> None:
        """Project `images`, (M, C, H, W), on the stored frequencies, which stay the same."""
        check_images(images, (*self.coefficients.shape[:2], *self._size))
        with torch.no_grad():
            all_coefficients = self._transformed(images.to(self.coefficients))
            self.coefficients.copy_(all_coefficients.gather(2, self._positions(slice(None))))

    def decode(self, slots: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """Return the images of `slots`, by the inverse transform; decoding is deterministic."""
        coefficients = self.coefficients[slots]
        grid = coefficients.new_zeros(*coefficients.shape[:2], math.prod(self._size))
        grid = grid.scatter(2, self._positions(slots), coefficients).view(*grid.shape[:2], *self._size)
        return _dual(self._row_cosines).T @ grid @ _dual(self._column_cosines), slots

    def pull_back_(self, slots: Tensor, gradient: Tensor, rng: torch.Generator) -> None:  # noqa: ARG002
        """Add the gradient to the coefficients of the slots."""
        grid = (_dual(self._row_cosines) @ gradient @ _dual(self._column_cosines).T).flatten(2)
        add_row_gradients_(self.coefficients, slots, grid.gather(2, self._positions(slots)))

    @property
    def _size(self) -> tuple[int, int]:
        return len(self._row_cosines), len(self._column_cosines)

    def _transformed(self, images: Tensor) -> Tensor:
        """Return all coefficients, (B, C, H*W)."""
        return (self._row_cosines @ images @ self._column_cosines.T).flatten(2)

    def _positions(self, slots: Tensor | slice) -> Tensor:
        """Return the positions of the stored coefficients among H*W, (B, C, k)."""
        return self.kept[self.groups[slots]][:, None].expand(-1, self._channels, -1)


def cosines(size: int) -> Tensor:
    """Return the matrix sqrt(2/N) cos(pi u (2i + 1) / 2N) of a length N, (N, N) float64; row u is a frequency."""
    index = torch.arange(size, dtype=torch.float64)
    return torch.cos(math.pi / size * index[:, None] * (index + 0.5)) * math.sqrt(2 / size)


def _dual(cosine_rows: Tensor) -> Tensor:
    """Return the transposed inverse of `cosines`: its rows are orthogonal, and all but the first have length 1."""
    scale = torch.ones_like(cosine_rows[:, :1])
    scale[0] = 0.5
    return scale * cosine_rows


def lowest_frequencies(height: int, width: int) -> Tensor:
    """Return the positions of all frequencies, (H*W,) int64, ordered by the sum of row and column, then by row."""
    rows, columns = torch.arange(height)[:, None], torch.arange(width)
    return ((rows + columns) * height + rows).flatten().argsort()


def _varying(coefficients: Tensor, groups: Tensor, k: int, order: Tensor) -> Tensor:
    """Return the k frequencies of the largest variance of the channels' mean in each group, (G, k) int64."""
    kept = []
    for group in range(int(groups.max()) + 1):
        means = coefficients[groups == group].mean(1).double()
        rule = f"hold at least two images of class {group} for a mask by variance"
        require(len(means) >= 2, "images", rule, len(means))
        # Of two frequencies with the same variance the lower one is kept, such as zero for images that are all equal.
        variances = means.var(0, correction=0)[order]
        kept.append(order[variances.argsort(descending=True, stable=True)[:k]])
    return torch.stack(kept)
