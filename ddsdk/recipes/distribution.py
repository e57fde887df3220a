"""Base classes of distribution matching."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, final

from ddsdk import foundation, objectives, synthetic
from ddsdk.foundation import Momentum, NonNegativeInt, PositiveFloat, PositiveInt
from ddsdk.recipes.base import AugmentedRecipe
from ddsdk.recipes.parts import sgd_on_images

if TYPE_CHECKING:
    from ddsdk.recipes.signature import Generator, Optimizer, RealData, SyntheticSet


@dataclass(frozen=True, kw_only=True)
class DistributionMatching(AugmentedRecipe):
    """Matching of the features of real and synthetic images, or of the distributions of these features.

    Attributes:
        steps: Image steps, each of which updates all classes.
        image_lr: Learning rate of the images; None for the published one.
        start: Initialisation of the images: noise, real, k-means, means or herding.
    """

    steps: PositiveInt = 20_000
    image_lr: PositiveFloat | None = None
    start: str = "real"

    @final
    def mean_match(self, real: RealData, real_batch: int, synthetic_batch: int | None = None) -> objectives.ClassMatch:
        """Return the objective of DM: the squared distance of the mean embeddings, summed over classes."""
        return objectives.ClassMatch(
            byproduct=objectives.mean_embedding,
            distance=objectives.squared,
            real_batch=real_batch,
            augmentation=self.siamese(real),
            synthetic_batch=synthetic_batch,
        )


@dataclass(frozen=True, kw_only=True)
class SGDMatching(DistributionMatching):
    """Distribution matching with SGD on the images.

    Attributes:
        image_momentum: Momentum of the SGD on the images.
    """

    image_momentum: Momentum = 0.5

    @final
    def sgd(self, published_lr: float) -> Callable[[SyntheticSet], Optimizer]:
        """Return the factory of the images' optimizer, at `published_lr` where `image_lr` is None."""
        lr = published_lr if self.image_lr is None else self.image_lr
        return partial(sgd_on_images, lr=lr, momentum=self.image_momentum)


@dataclass(frozen=True, kw_only=True)
class LatentMatching(DistributionMatching):
    """Distribution matching over latents of a frozen generator, which is first trained on the real data.

    Attributes:
        steps: Latent steps, each of which updates all classes.
        image_lr: Learning rate of the latents (Adam).
        real_batch: Real images per class in one step.
        start: Initialisation of the images that the first latents decode to: noise, real, k-means, means or herding.
        generator_dim: Length of the generator's latent vectors.
        generator_width: Channels of the generator's feature maps at half resolution.
        generator_steps: Training steps of the generator.
        inversion_steps: Adam steps of the inversion, which fits the first latents to their images.
        inversion_lr: Learning rate of the inversion (Adam).
    """

    steps: PositiveInt = 1000
    image_lr: PositiveFloat = 0.01
    real_batch: PositiveInt = 256
    generator_dim: PositiveInt = 64
    generator_width: PositiveInt = 16
    generator_steps: PositiveInt = 2000
    inversion_steps: NonNegativeInt = 200
    inversion_lr: PositiveFloat = 0.1

    @final
    def trained(self, real: RealData, rng: Generator) -> synthetic.Autoencoder:
        """Return the trained generator with its encoder."""
        return synthetic.train_generator(
            real,
            dim=self.generator_dim,
            width=self.generator_width,
            steps=self.generator_steps,
            rng=foundation.derive(rng, "generator"),
        )
