"""Bases and hallucinators: each pair of a basis and a hallucinator network gives an image."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, conv_transpose2d

from ddsdk.foundation import derive, require, require_count
from ddsdk.synthetic.base import Parametrization, check_images, stored_images
from ddsdk.synthetic.fitting import fit_

_INITIAL_STD = 0.05
"""Standard deviation of the initial hallucinators around the identity; equal ones would keep equal gradients."""


def hallucinator_floats(image_shape: tuple[int, int, int], basis_channels: int) -> int:
    """Return the number of floats of a hallucinator: two 3x3 kernels with biases, and a scale and a shift map.

    The maps are 2 pixels smaller than an image. For CIFAR-10 with colour bases: 84 + 84 + 2 * 3 * 30 * 30 = 5568.

    Args:
        image_shape: Shape of an image, (C, H, W).
        basis_channels: Channels of a basis, 1 or C.

    Examples:
        >>> from ddsdk.synthetic import hallucinator_floats
        >>> hallucinator_floats((3, 32, 32), 3)
        5568
    """
    c, height, width = image_shape
    return (9 * basis_channels + 1) * c + (9 * c + 1) * c + 2 * c * (height - 2) * (width - 2)


@final
class Hallucination(Parametrization):
    """One basis for each slot, and hallucinators that all slots share: M x H images from M bases.

    image[m, h] = deconv_h(scale_h * conv_h(basis_m) + shift_h): a 3x3 convolution without padding, an elementwise scale
    and shift, and a 3x3 transposed convolution back to the image size. Hallucinators start near the identity, which
    preserves all but the outermost pixels.

    Args:
        bases: Initial bases, (M, C, H, W), or (M, 1, H, W) for grey bases, finite, which are copied; at least 3 x 3
            pixels.
        hallucinators: Number of hallucinators, H in the formula.
        channels: Channels of an image, C; None for those of the bases.
        sampled: Whether a slot is decoded by one random hallucinator, drawn anew for each call, instead of by all. An
            export with all pairs needs false.
        fit: Number of Adam steps in `encode`, after the bases were set to the images.
        rng: Root generator of the initial hallucinators, not advanced.

    References:
        Liu et al., "Dataset Distillation via Factorization", NeurIPS 2022, arXiv:2210.16774.

    Examples:
        >>> import ddsdk, torch
        >>> parametrization = ddsdk.synthetic.Hallucination(torch.zeros(10, 1, 8, 8), 3, rng=ddsdk.generator(0))
        >>> images, _ = parametrization.decode(torch.arange(10), ddsdk.generator(0))
        >>> tuple(images.shape)
        (30, 1, 8, 8)
    """

    def __init__(
        self,
        bases: Tensor,
        hallucinators: int = 5,
        *,
        channels: int | None = None,
        sampled: bool = False,
        fit: int = 0,
        rng: torch.Generator,
    ) -> None:
        super().__init__()
        self.bases = stored_images("bases", bases)
        require(min(bases.shape[2:]) >= 3, "bases", "be at least 3 pixels high and wide", tuple(bases.shape))
        require_count("hallucinators", hallucinators)
        c = bases.shape[1] if channels is None else channels
        require(bases.shape[1] in (1, c), "bases", f"have 1 or {c} channels", bases.shape[1])
        self.sampled, self._fit = sampled, fit
        map_shape = (c, bases.shape[2] - 2, bases.shape[3] - 2)

        def perturbed(name: str, start: Tensor) -> nn.Parameter:
            noise = torch.randn(hallucinators, *start.shape, generator=derive(rng, name))
            return nn.Parameter((start + _INITIAL_STD * noise).to(bases))

        self.inward = perturbed("inward", _identity_kernel(c, bases.shape[1]))
        self.inward_bias = perturbed("inward_bias", torch.zeros(c))
        self.scale = perturbed("scale", torch.ones(map_shape))
        self.shift = perturbed("shift", torch.zeros(map_shape))
        self.outward = perturbed("outward", _identity_kernel(c, c))
        self.outward_bias = perturbed("outward_bias", torch.zeros(c))

    def encode(self, images: Tensor) -> None:
        """Set each basis to the mean of its images, (M*H, C, H, W), or (M, C, H, W) if sampled, and fit."""
        m, basis_channels, height, width = self.bases.shape
        c, views = self.scale.shape[1], 1 if self.sampled else len(self.scale)
        check_images(images, (m * views, c, height, width))
        mean = images.view(m, views, c, height, width).mean(1)
        with torch.no_grad():
            self.bases.copy_(mean if basis_channels == c else mean.mean(1, keepdim=True))
        fit_(self, images, slots=m, steps=self._fit, lr=0.01)

    def decode(self, slots: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return the images of `slots` under all hallucinators, or under a random one if sampled."""
        count = len(self.scale)
        first = int(torch.randint(count, (), generator=rng)) if self.sampled else 0
        chosen = slice(first, first + 1) if self.sampled else slice(None)
        inward, scale = self.inward[chosen], self.scale[chosen]
        h, c = scale.shape[:2]
        # One convolution applies all hallucinators, each to its own group of channels.
        bases = self.bases[slots]
        maps = conv2d(bases, inward.flatten(0, 1), self.inward_bias[chosen].flatten())
        scaled = maps * scale.flatten(0, 1) + self.shift[chosen].flatten(0, 1)
        images = conv_transpose2d(
            scaled, self.outward[chosen].flatten(0, 1), self.outward_bias[chosen].flatten(), groups=h
        )
        return images.view(len(slots) * h, c, *images.shape[2:]), slots.repeat_interleave(h)


def _identity_kernel(c_out: int, c_in: int) -> Tensor:
    """Return a kernel, (c_out, c_in, 3, 3), that copies channels, or a single channel to all output channels."""
    kernel = torch.zeros(c_out, c_in, 3, 3)
    kernel[:, :, 1, 1] = torch.eye(c_out) if c_in == c_out else 1.0
    return kernel
