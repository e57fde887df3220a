"""Codes times decoders: small codes for each class, and tiny networks that all of them share."""

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
    """Return the shape of a code that has a quarter of the floats of an image: (4C, H/4, W/4), rounded up."""
    c, height, width = image_shape
    return 4 * c, math.ceil(height / 4), math.ceil(width / 4)


def tiny_decoder(image_shape: tuple[int, int, int], rng: torch.Generator) -> nn.Sequential:
    """Return a network from codes of shape `code_shape(image_shape)` to images.

    Twice: enlarge to double the size by repetition, then a 3x3 convolution. 185 floats for grey images and 1635 for
    colour ones.

    Args:
        image_shape: Shape of an image, (C, H, W).
        rng: Generator of the weights; it advances.
    """
    c, height, width = image_shape
    hidden = 4 * c
    # Without memory: PyTorch would draw weights from its global state.
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
    """A code for each slot, and decoders that all slots share: M x D images from M codes.

    Args:
        codes: Finite codes in the shape that the decoders take, (M, ...), copied.
        decoders: One module or more, D, from codes (B, ...) to images (B, C, H, W); learned with the codes.
        fit: Adam steps in `encode`.
        fit_lr: Learning rate of these steps.

    References:
        Lee, Lee and Hwang, "Dataset Condensation with Latent Space Knowledge Factorization and Sharing",
        arXiv:2208.10494.
    """

    def __init__(self, codes: Tensor, decoders: Sequence[nn.Module], *, fit: int = 200, fit_lr: float = 0.05) -> None:
        super().__init__()
        require(len(decoders) >= 1, "decoders", "hold at least one module", len(decoders))
        self.codes = stored("codes", codes)
        self.decoders = nn.ModuleList(decoders)
        self._fit, self._fit_lr = fit, fit_lr

    def encode(self, images: Tensor) -> None:
        """Fit codes and decoders to `images`, (M*D, C, H, W), from where they are."""
        m = len(self.codes)
        check_images(images, (m * len(self.decoders), *images.shape[1:]))
        fit_(self, images, slots=m, steps=self._fit, lr=self._fit_lr)

    def decode(self, slots: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """Return each of `slots` under every decoder; nothing is random."""
        codes = self.codes[slots]
        images = torch.stack([decoder(codes) for decoder in self.decoders], 1)
        return images.flatten(0, 1), slots.repeat_interleave(len(self.decoders))
