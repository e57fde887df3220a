"""Latents: each image is the output of a generator for a stored vector or map."""

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
    """A latent for each slot, under any generator.

    Args:
        generator: Module from latents (B, ...) to images (B, C, H, W), or from latents and classes (B,). It is
            copied and put into evaluation mode.
        latents: Finite latents in the shape that the generator takes, (M, ...), copied.
        classes: Class of each latent, (M,) int64, where the generator takes classes.
        learned: Whether the generator is learned with the latents. A frozen one counts as stored all the same: without
            it, latents are no images.
        fit: Adam steps in `encode`.
        fit_lr: Learning rate of these steps.

    References:
        Zhao and Bilen, "Synthesizing Informative Training Samples with GAN", 2022, arXiv:2204.07513.
        Cazenavette et al., "Generalizing Dataset Distillation via Deep Generative Prior", CVPR 2023,
        arXiv:2305.01649.
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
        """Invert the generator: fit the latents to `images`, (M, C, H, W), from where they are.

        A generator that is learned is fitted with them, as in Generative Latent Optimisation (Bojanowski et al.,
        ICML 2018, arXiv:1707.05776).
        """
        check_images(images, (len(self.latents), *images.shape[1:]))
        fit_(self, images, slots=len(self.latents), steps=self._fit, lr=self._fit_lr)

    def decode(self, slots: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """Return the images of `slots` under the generator; nothing is random."""
        given = (self.latents[slots],) if self.classes is None else (self.latents[slots], self.classes[slots])
        return self.generator(*given), slots
