"""Latents: each image is what a generator makes of a stored vector or map."""

from __future__ import annotations

import copy
from typing import final

import torch
from torch import Tensor, nn

from ddsdk.foundation import require
from ddsdk.synthetic.base import Parametrization
from ddsdk.synthetic.fitting import check_images, fit_


@final
class Latent(Parametrization):
    """A latent for each slot, under any generator.

    Args:
        generator: A module from latents (B, ...) to images (B, C, H, W), or from latents and classes (B,). It is
            copied and put into evaluation mode.
        latents: (M, ...) in the shape that the generator takes, copied.
        classes: (M,) int64 where the generator takes classes.
        learned: Learn the generator with the latents. A frozen one counts and is kept all the same: without it,
            latents are no images.
        fit: Adam steps in `encode`.
        fit_lr: Learning rate of these steps.

    Raises:
        ValueError: If `latents` is not finite, or `classes` has another length.

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
        require(bool(torch.isfinite(latents).all()), "latents", "be finite", "NaN or infinity")
        if classes is not None:
            require(len(classes) == len(latents), "classes", f"have length {len(latents)}", len(classes))
        self.latents = nn.Parameter(latents.detach().clone(memory_format=torch.contiguous_format))
        self.register_buffer("classes", None if classes is None else classes.clone())
        self.classes: Tensor | None
        self.generator = copy.deepcopy(generator).eval().requires_grad_(learned)
        self._fit = fit
        self._fit_lr = fit_lr

    def encode(self, images: Tensor) -> None:
        """Invert the generator: fit the latents to `images`, (M, C, H, W), from where they are.

        A generator that is learned is fitted with them, as in Generative Latent Optimisation (Bojanowski et al.,
        ICML 2018, arXiv:1707.05776).
        """
        check_images(images, (len(self.latents), *images.shape[1:]))
        fit_(self, images, slots=len(self.latents), steps=self._fit, lr=self._fit_lr)

    def decode(self, slots: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """Return what the generator makes of `slots`; nothing is random."""
        given = (self.latents[slots],) if self.classes is None else (self.latents[slots], self.classes[slots])
        return self.generator(*given), slots

    def project_(self) -> None:
        """Leave the latents as they are: all are admissible."""

    def stored_floats(self) -> int:
        """Return the floats of the latents and of the generator."""
        return sum(t.numel() for t in self.state_dict().values() if t.is_floating_point())
