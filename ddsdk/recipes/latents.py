"""The frame that IT-GAN and GLaD share: latents of real images under a small generator, and feature matching."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from ddsdk import foundation, objectives, synthetic
from ddsdk.foundation import require_count
from ddsdk.recipes.distribution import DistributionMatching

if TYPE_CHECKING:
    import torch

    from ddsdk.data import RealData
    from ddsdk.synthetic import Autoencoder


@dataclass(frozen=True, kw_only=True)
class LatentMatching(DistributionMatching):
    """Latents under a frozen generator that is trained on the real data first.

    Attributes:
        steps: Latent steps.
        image_lr: Learning rate of the latents (Adam).
        real_batch: Real images of each class in one step.
        start: Which images the latents stand for at first: noise, real, k-means, means or herding.
        augmentation: DSA operations joined by "_"; empty for none. None takes the published ones that suit the data:
            without flip unless the data is mirror-safe.
        generator_dim: Length of the generator's latent vectors.
        generator_width: Channels of the generator's inner maps.
        generator_steps: Steps of the generator's training.
        inversion_steps: Adam steps that bring the latents to their images.
        inversion_lr: Learning rate of these steps.
    """

    steps: int = 1000
    image_lr: float = 0.01
    real_batch: int = 256
    generator_dim: int = 64
    generator_width: int = 16
    generator_steps: int = 2000
    inversion_steps: int = 200
    inversion_lr: float = 0.1

    @final
    def check_shared(self) -> None:
        """Check the counts and rates that all have."""
        self.check_fields(counts="generator_dim generator_width generator_steps", rates="inversion_lr")
        require_count("inversion_steps", self.inversion_steps, least=0)

    @final
    def trained(self, real: RealData, rng: torch.Generator) -> Autoencoder:
        """Return the generator, trained, with its encoder."""
        return synthetic.train_generator(
            real,
            dim=self.generator_dim,
            width=self.generator_width,
            steps=self.generator_steps,
            rng=foundation.derive(rng, "generator"),
        )

    @final
    def matching(self, real: RealData) -> objectives.ClassMatch:
        """Return DM's objective."""
        return objectives.ClassMatch(
            byproduct=objectives.mean_embedding,
            distance=objectives.squared,
            real_batch=self.real_batch,
            augmentation=self.siamese(real),
        )
