"""Bases and addresses: a few small images that all classes share, and the mixture of each image."""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from ddsdk.foundation import derive, require, require_count
from ddsdk.synthetic.base import Parametrization, check_images


def basis_shape(image_shape: tuple[int, int, int], factor: int) -> tuple[int, int, int]:
    """Return the shape of a basis: that of an image with sides that are `factor` times as short, rounded up."""
    c, height, width = image_shape
    return c, math.ceil(height / factor), math.ceil(width / factor)


def address_count(ipc: int, num_classes: int, image_shape: tuple[int, int, int], *, bases: int, factor: int) -> int:
    """Return the number of images of each class that can be stored in the floats of `ipc` images of each class.

    r = floor((ipc K CHW - B CHW/f^2) / (K B)): what the B bases leave pays for addresses, B floats each. CIFAR-10 at 1
    image per class with 16 bases of half the sides: (10 * 3072 - 16 * 768) / 160 = 115.

    Args:
        ipc: Images of each class whose floats are the budget.
        num_classes: Number of classes K.
        image_shape: Shape of an image, (C, H, W).
        bases: Number of bases, B.
        factor: Ratio f of the sides of an image to those of a basis.

    Raises:
        ValueError: If the bases leave nothing for an address of each class.
    """
    budget = ipc * num_classes * math.prod(image_shape)
    left = budget - bases * math.prod(basis_shape(image_shape, factor))
    count = left // (num_classes * bases)
    rule = f"leave an address for each of {num_classes} classes in {budget} floats"
    require(count >= 1, "bases", rule, bases)
    return count


@final
class AddressedBases(Parametrization):
    """Every image is a mixture of bases that all images share, enlarged: image_m = up(sum_b address_mb basis_b).

    Addresses and bases start at random as Xavier has it: uniform in +-sqrt(6 / (rows + columns)), with an image
    counted as one row. `encode` starts them from images.

    Args:
        slots: Number of images, M.
        image_shape: Shape of an image, (C, H, W).
        bases: Number of bases, B.
        factor: Ratio of the sides of an image to those of a basis.
        rng: Root of the start.

    References:
        Deng and Russakovsky, "Remember the Past: Distilling Datasets into Addressable Memories for Neural Networks",
        NeurIPS 2022, arXiv:2206.02916.
    """

    def __init__(
        self, slots: int, image_shape: tuple[int, int, int], *, bases: int = 16, factor: int = 2, rng: torch.Generator
    ) -> None:
        super().__init__()
        for name, value in (("slots", slots), ("bases", bases), ("factor", factor)):
            require_count(name, value)
        small = basis_shape(image_shape, factor)
        self._size = tuple(image_shape[1:])

        def drawn(name: str, *shape: int) -> Tensor:
            return nn.init.xavier_uniform_(torch.empty(shape), generator=derive(rng, name))

        self.bases = nn.Parameter(drawn("bases", bases, math.prod(small)).view(bases, *small))
        self.addresses = nn.Parameter(drawn("addresses", slots, bases))

    def encode(self, images: Tensor) -> None:
        """Shrink `images`, (M, C, H, W), and mix them from their leading singular vectors.

        With as many bases as images and factor 1 that is exact; with fewer bases no other ones are nearer to the
        shrunk images. The singular values are shared evenly between bases and addresses.
        """
        check_images(images, (len(self.addresses), self.bases.shape[1], *self._size))
        small = tuple(self.bases.shape[2:])
        shrunk = images if small == self._size else interpolate(images, small, mode="bilinear", antialias=True)
        left, sizes, right = torch.linalg.svd(shrunk.flatten(1).double(), full_matrices=False)
        kept = min(len(sizes), len(self.bases))
        root = sizes[:kept].sqrt()
        with torch.no_grad():
            # Bases beyond the rank stay as they are: a basis and its addresses at zero would never move.
            self.addresses[:, kept:] = 0
            self.addresses[:, :kept] = left[:, :kept] * root
            self.bases[:kept] = (root[:, None] * right[:kept]).view(kept, *self.bases.shape[1:]).to(self.bases)

    def decode(self, slots: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """Return the image at each of `slots`; nothing is random."""
        bases: Tensor = self.bases
        if tuple(bases.shape[2:]) != self._size:
            # Enlarging is linear: a few bases cost less than many images.
            bases = interpolate(bases, self._size, mode="bilinear", align_corners=False)
        return torch.einsum("mb,bchw->mchw", self.addresses[slots], bases), slots
