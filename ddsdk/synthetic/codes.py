"""Codes and decoders: small codes for each class, and tiny decoder networks that all classes share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn

from ddsdk.foundation import require
from ddsdk.networks import initialise
from ddsdk.synthetic.base import Parametrization, check_images, stored
from ddsdk.synthetic.fitting import fit_


def code_shape(image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """Return the shape (4C, ceil(H/4), ceil(W/4)) of a code, a quarter of the floats of an image (C, H, W).

    Examples:
        >>> from ddsdk.synthetic import code_shape
        >>> code_shape((3, 32, 32))
        (12, 8, 8)
    """
    c, height, width = image_shape
    return 4 * c, math.ceil(height / 4), math.ceil(width / 4)


def tiny_decoder(image_shape: tuple[int, int, int], rng: torch.Generator) -> nn.Sequential:
    """Return a new decoder network from codes of shape `code_shape(image_shape)` to images.

    Two blocks of nearest-neighbour enlargement to double the size and a 3x3 convolution have 185 floats for grey images
    and 1635 for colour images.

    Args:
        image_shape: Shape of an image, (C, H, W).
        rng: Generator of the initial weights, which is advanced.

    Examples:
        >>> import ddsdk
        >>> decoder = ddsdk.synthetic.tiny_decoder((1, 8, 8), ddsdk.generator(0))
        >>> sum(p.numel() for p in decoder.parameters())
        185
    """
    c, height, width = image_shape
    hidden = 4 * c
    # On the meta device, because PyTorch would draw the initial weights from its global generator.
    with torch.device("meta"):
        network = nn.Sequential(
            nn.Upsample((math.ceil(height / 2), math.ceil(width / 2))),
            nn.Conv2d(hidden, hidden, 3, padding=1),
            nn.LeakyReLU(0.1),
            nn.Upsample((height, width)),
            nn.Conv2d(hidden, c, 3, padding=1),
        )
    return initialise(network, rng)


@final
class Codes(Parametrization):
    """One code for each slot, and decoders that all slots share: M x D images from M codes.

    Args:
        codes: Initial codes in the input shape of the decoders, (M, ...), finite, which are copied.
        decoders: Modules from codes (B, ...) to images (B, C, H, W), D >= 1 of them, which are learned with the codes.
        fit: Number of Adam steps in `encode`.
        fit_lr: Learning rate of these steps.

    References:
        Lee, Lee and Hwang, "Dataset Condensation with Latent Space Knowledge Factorization and Sharing",
        arXiv:2208.10494.

    Examples:
        >>> import ddsdk, torch
        >>> decoders = [ddsdk.synthetic.tiny_decoder((1, 8, 8), ddsdk.generator(i)) for i in range(2)]
        >>> codes = ddsdk.synthetic.Codes(torch.zeros(10, 4, 2, 2), decoders)
        >>> images, _ = codes.decode(torch.arange(10), ddsdk.generator(0))
        >>> tuple(images.shape)
        (20, 1, 8, 8)
    """

    def __init__(self, codes: Tensor, decoders: Sequence[nn.Module], *, fit: int = 200, fit_lr: float = 0.05) -> None:
        super().__init__()
        require(len(decoders) >= 1, "decoders", "hold at least one module", len(decoders))
        self.codes = stored("codes", codes)
        self.decoders = nn.ModuleList(decoders)
        self._fit, self._fit_lr = fit, fit_lr

    def encode(self, images: Tensor) -> None:
        """Fit codes and decoders to `images`, (M*D, C, H, W), by Adam, starting from their present values."""
        m = len(self.codes)
        check_images(images, (m * len(self.decoders), *images.shape[1:]))
        fit_(self, images, slots=m, steps=self._fit, lr=self._fit_lr)

    def decode(self, slots: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """Return the images of `slots` under each decoder; decoding is deterministic."""
        codes = self.codes[slots]
        images = torch.stack([decoder(codes) for decoder in self.decoders], 1)
        return images.flatten(0, 1), slots.repeat_interleave(len(self.decoders))
