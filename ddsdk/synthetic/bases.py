"""Bases and addresses: a few small images that all classes share, and the mixing weights of each image."""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from ddsdk.foundation import derive, require, require_count
from ddsdk.synthetic.base import Parametrization, check_images


def basis_shape(image_shape: tuple[int, int, int], factor: int) -> tuple[int, int, int]:
    """Return the shape (C, ceil(H/factor), ceil(W/factor)) of a basis for images of shape (C, H, W)."""
    c, height, width = image_shape
    return c, math.ceil(height / factor), math.ceil(width / factor)


def address_count(ipc: int, num_classes: int, image_shape: tuple[int, int, int], *, bases: int, factor: int) -> int:
    """Return the number of images per class that fit into the storage budget of `ipc` images per class.

    r = floor((ipc K CHW - B CHW/f^2) / (K B)): the floats beside the B bases are addresses of B floats each. For
    CIFAR-10 at 1 image per class with 16 bases of half the side length: (10 * 3072 - 16 * 768) / 160 = 115. A budget
    that leaves no address for each class is a ValueError.

    Args:
        ipc: Images per class whose number of floats is the storage budget.
        num_classes: Number of classes, K in the formula.
        image_shape: Shape of an image, (C, H, W).
        bases: Number of bases, B in the formula.
        factor: Ratio f of the side lengths of an image and a basis.

    Examples:
        >>> from ddsdk.synthetic import address_count
        >>> address_count(1, 10, (3, 32, 32), bases=16, factor=2)
        115
    """
    budget = ipc * num_classes * math.prod(image_shape)
    address_floats = budget - bases * math.prod(basis_shape(image_shape, factor))
    count = address_floats // (num_classes * bases)
    rule = f"leave an address for each of {num_classes} classes in {budget} floats"
    require(count >= 1, "bases", rule, bases)
    return count


@final
class AddressedBases(Parametrization):
    """Each image is a mixture of bases that all images share: image_m = up(sum_b address_mb basis_b), up enlarges.

    Addresses and bases start at random with Xavier initialisation: uniform in +-sqrt(6 / (rows + columns)), where an
    image is one row. `encode` initialises them from images.

    Args:
        slots: Number of images, M in the formula.
        image_shape: Shape of an image, (C, H, W).
        bases: Number of bases, B in the formula.
        factor: Ratio of the side lengths of an image and a basis, at least 1.
        rng: Root generator of the initialisation, not advanced.

    References:
        Deng and Russakovsky, "Remember the Past: Distilling Datasets into Addressable Memories for Neural Networks",
        NeurIPS 2022, arXiv:2206.02916.

    Examples:
        >>> import ddsdk, torch
        >>> memory = ddsdk.synthetic.AddressedBases(50, (1, 8, 8), bases=4, rng=ddsdk.generator(0))
        >>> images, _ = memory.decode(torch.arange(50), ddsdk.generator(0))
        >>> tuple(images.shape), memory.stored_floats()  # 50 addresses of 4 floats, and 4 bases of 4 x 4 pixels
        ((50, 1, 8, 8), 264)
    """

    def __init__(
        self, slots: int, image_shape: tuple[int, int, int], *, bases: int = 16, factor: int = 2, rng: torch.Generator
    ) -> None:
        super().__init__()
        for name, value in (("slots", slots), ("bases", bases), ("factor", factor)):
            require_count(name, value)
        shape = basis_shape(image_shape, factor)
        self._size = tuple(image_shape[1:])

        def xavier(name: str, rows: int, columns: int) -> Tensor:
            return nn.init.xavier_uniform_(torch.empty(rows, columns), generator=derive(rng, name))

        self.bases = nn.Parameter(xavier("bases", bases, math.prod(shape)).view(bases, *shape))
        self.addresses = nn.Parameter(xavier("addresses", slots, bases))

    def encode(self, images: Tensor) -> None:
        """Shrink `images`, (M, C, H, W), and approximate them by their leading singular vectors.

        The approximation of the shrunk images is the best for the number of bases; with as many bases as images and
        factor 1 it is exact. The singular values are shared evenly between bases and addresses.
        """
        check_images(images, (len(self.addresses), self.bases.shape[1], *self._size))
        size = tuple(self.bases.shape[2:])
        rate_reductions = images if size == self._size else interpolate(images, size, mode="bilinear", antialias=True)
        left, singular_values, right = torch.linalg.svd(rate_reductions.flatten(1).double(), full_matrices=False)
        rank = min(len(singular_values), len(self.bases))
        root = singular_values[:rank].sqrt()
        with torch.no_grad():
            # Bases beyond the rank keep their random values: if a basis and its addresses were zero, so would be both
            # gradients, and it could never be learned.
            self.addresses[:, rank:] = 0
            self.addresses[:, :rank] = left[:, :rank] * root
            self.bases[:rank] = (root[:, None] * right[:rank]).view(rank, *self.bases.shape[1:]).to(self.bases)

    def decode(self, slots: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """Return the images of `slots`; decoding is deterministic."""
        bases: Tensor = self.bases
        if tuple(bases.shape[2:]) != self._size:
            # Enlarging is linear, so it can precede the mixture: there are fewer bases than images.
            bases = interpolate(bases, self._size, mode="bilinear", align_corners=False)
        return torch.einsum("mb,bchw->mchw", self.addresses[slots], bases), slots
