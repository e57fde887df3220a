"""Latents: each image is the output of a generator for a stored vector or feature map."""

from __future__ import annotations

import copy
from typing import final

import torch
from torch import Tensor, nn

from ddsdk.foundation import require
from ddsdk.synthetic.base import Parametrization, check_images, stored
from ddsdk.synthetic.fitting import fit_


@final
class Latent(Parametrization):
    """One latent for each slot, decoded by any generator.

    Args:
        generator: Module from latents (B, ...), or from latents and classes (B,), to images (B, C, H, W). It is copied
            and set to evaluation mode.
        latents: Initial latents in the input shape of the generator, (M, ...), finite, which are copied.
        classes: Class of each latent, (M,) int64; None for a generator without classes.
        learned: Whether the generator is learned with the latents. A frozen generator counts as stored too, because
            latents cannot be decoded without it.
        fit: Number of Adam steps in `encode`.
        fit_lr: Learning rate of these steps.

    References:
        Zhao and Bilen, "Synthesizing Informative Training Samples with GAN", 2022, arXiv:2204.07513.
        Cazenavette et al., "Generalizing Dataset Distillation via Deep Generative Prior", CVPR 2023,
        arXiv:2305.01649.

    Examples:
        >>> import ddsdk, torch
        >>> generator = ddsdk.synthetic.ConditionalGenerator((1, 8, 8), 10, dim=4, width=2)
        >>> latent = ddsdk.synthetic.Latent(generator, torch.zeros(10, 4), torch.arange(10))
        >>> images, _ = latent.decode(torch.arange(10), ddsdk.generator(0))
        >>> tuple(images.shape)
        (10, 1, 8, 8)
    """

    def __init__(
        self,
        generator: nn.Module,
        latents: Tensor,
        classes: Tensor | None = None,
        *,
        learned: bool = False,
        fit: int = 200,
        fit_lr: float = 0.1,
    ) -> None:
        super().__init__()
        self.latents = stored("latents", latents)
        if classes is not None:
            require(len(classes) == len(latents), "classes", f"have length {len(latents)}", len(classes))
        self.register_buffer("classes", None if classes is None else classes.clone())
        self.classes: Tensor | None
        self.generator = copy.deepcopy(generator).eval().requires_grad_(learned)
        self._fit, self._fit_lr = fit, fit_lr

    def encode(self, images: Tensor) -> None:
        """Invert the generator: fit the latents to `images`, (M, C, H, W), starting from their present values.

        A learned generator is fitted too, as in Generative Latent Optimisation (Bojanowski et al., ICML 2018,
        arXiv:1707.05776).
        """
        check_images(images, (len(self.latents), *images.shape[1:]))
        fit_(self, images, slots=len(self.latents), steps=self._fit, lr=self._fit_lr)

    def decode(self, slots: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """Return the images of `slots` under the generator; decoding is deterministic."""
        inputs = (self.latents[slots],) if self.classes is None else (self.latents[slots], self.classes[slots])
        return self.generator(*inputs), slots
