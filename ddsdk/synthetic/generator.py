"""A small conditional generator, trained in minutes on a CPU as the decoder of an autoencoder.

The encoder serves the training of the generator and the initialisation of inversion. It is not part of a set.
"""

from __future__ import annotations

import math
from typing import NamedTuple, final

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from ddsdk.data import RealData
from ddsdk.foundation import derive, require, require_count, require_positive
from ddsdk.networks import initialise
from ddsdk.training import micro_batch, pieces

_LATENT_PENALTY = 1e-3
_LATENT_NOISE = 0.1


@final
class ConditionalGenerator(nn.Module):
    """A generator from latents and classes to images: one linear layer, then twice enlargement and a 3x3 convolution.

    The class is a one-hot vector concatenated to the latent, so the linear layer contains an embedding of each class.

    Args:
        image_shape: Shape of an image, (C, H, W), after preprocessing.
        num_classes: Number of classes, K >= 1.
        dim: Length of a latent vector.
        width: Channels of the feature maps: 2 `width` at a quarter of the resolution, `width` at half of it.

    Examples:
        >>> import ddsdk, torch
        >>> generator = ddsdk.synthetic.ConditionalGenerator((1, 8, 8), 10, dim=4, width=2)
        >>> tuple(generator(torch.zeros(3, 4), torch.tensor([0, 1, 2])).shape)
        (3, 1, 8, 8)
    """

    def __init__(self, image_shape: tuple[int, int, int], num_classes: int, *, dim: int = 32, width: int = 16) -> None:
        super().__init__()
        for name, value in (("num_classes", num_classes), ("dim", dim), ("width", width)):
            require_count(name, value)
        c, height, columns = image_shape
        first_maps = (2 * width, math.ceil(height / 4), math.ceil(columns / 4))
        half_size = (math.ceil(height / 2), math.ceil(columns / 2))
        self._num_classes = num_classes
        self.stages = nn.Sequential(
            nn.Sequential(
                nn.Linear(dim + num_classes, math.prod(first_maps)), nn.Unflatten(1, first_maps), nn.LeakyReLU(0.1)
            ),
            nn.Sequential(nn.Upsample(half_size), nn.Conv2d(2 * width, width, 3, padding=1), nn.LeakyReLU(0.1)),
            nn.Sequential(nn.Upsample((height, columns)), nn.Conv2d(width, c, 3, padding=1)),
        )

    def forward(self, latents: Tensor, classes: Tensor) -> Tensor:
        """Return the images (B, C, H, W) of latents (B, dim) and classes (B,) int64."""
        images: Tensor = self.stages(self._joined(latents, classes))
        return images

    def inner(self, latents: Tensor, classes: Tensor, layer: int) -> Tensor:
        """Return the feature maps before stage `layer`, 1 or 2, which `after(layer)` decodes to images."""
        require(layer in (1, 2), "layer", "be 1 or 2", layer)
        maps: Tensor = self.stages[:layer](self._joined(latents, classes))
        return maps

    def after(self, layer: int) -> nn.Sequential:
        """Return the stages from `layer`, 1 or 2, on: a generator from feature maps to images, without classes."""
        require(layer in (1, 2), "layer", "be 1 or 2", layer)
        return self.stages[layer:]

    def _joined(self, latents: Tensor, classes: Tensor) -> Tensor:
        return torch.cat([latents, one_hot(classes, self._num_classes).to(latents)], 1)


class Autoencoder(NamedTuple):
    """An encoder from images (B, C, H, W) to latents (B, dim), and a generator from latents and classes to images.

    Attributes:
        encoder: Network from images (B, C, H, W) to latents (B, dim).
        generator: Conditional generator from latents and classes to images.

    Examples:
        >>> import ddsdk
        >>> real = ddsdk.load("digits")
        >>> trained = ddsdk.synthetic.train_generator(real, dim=4, width=2, steps=1, rng=ddsdk.generator(0))
        >>> trained._fields
        ('encoder', 'generator')
    """

    encoder: nn.Module
    generator: ConditionalGenerator

    @torch.no_grad()
    def latents(self, images: Tensor) -> Tensor:
        """Return the latents of `images`, (N, dim), computed in micro-batches."""
        size = micro_batch(self.encoder, images.device, len(images))
        return torch.cat([self.encoder(images[part]) for part in pieces(len(images), size)])


def train_generator(
    real: RealData,
    *,
    dim: int = 32,
    width: int = 16,
    steps: int = 2000,
    batch_size: int = 128,
    lr: float = 2e-3,
    rng: torch.Generator,
) -> Autoencoder:
    """Train a conditional generator on real images as a regularised autoencoder, without an adversary.

    min mean |G(E(x) + noise, class) - x|^2 + 0.001 mean |E(x)|^2 with Gaussian noise of standard deviation 0.1, by Adam
    with a learning rate that falls linearly to zero.

    Args:
        real: Real images to reconstruct, with their classes.
        dim: Length of a latent vector.
        width: Channels of the feature maps, see `ConditionalGenerator`.
        steps: Number of optimizer steps.
        batch_size: Real images in one step.
        lr: Initial learning rate of Adam.
        rng: Root generator of all random numbers, not advanced. Equal generators give equal weights. The weights are
            not cached in a file.

    Returns:
        Autoencoder with frozen weights.

    Cost: two to three minutes on one core for 28 x 28 images.

    References:
        Ghosh et al., "From Variational to Deterministic Autoencoders", ICLR 2020, arXiv:1903.12436.

    Examples:
        >>> import ddsdk, torch
        >>> real = ddsdk.load("digits")
        >>> autoencoder = ddsdk.synthetic.train_generator(real, dim=4, width=2, steps=2, rng=ddsdk.generator(0))
        >>> tuple(autoencoder.latents(real.batch(torch.arange(5)).x).shape)
        (5, 4)
    """
    require_count("steps", steps)
    require_count("batch_size", batch_size)
    require_positive("lr", lr)
    autoencoder = _initial_autoencoder(real, dim, width, derive(rng, "init"))
    weights = [*autoencoder.encoder.parameters(), *autoencoder.generator.parameters()]
    optimizer = torch.optim.Adam(weights, lr=lr)
    for i in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * (1 - i / steps)
        _add_gradient(autoencoder, real, (batch_size, dim), derive(rng, "step", i))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    for module in autoencoder:
        module.requires_grad_(False)
    return autoencoder


def _initial_autoencoder(real: RealData, dim: int, width: int, rng: torch.Generator) -> Autoencoder:
    c, height, columns = real.image_shape
    features = 2 * width * math.ceil(height / 4) * math.ceil(columns / 4)
    # On the meta device, because PyTorch would draw the initial weights from its global generator.
    with torch.device("meta"):
        encoder = nn.Sequential(
            nn.Conv2d(c, width, 3, stride=2, padding=1),
            nn.LeakyReLU(0.1),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            nn.LeakyReLU(0.1),
            nn.Flatten(),
            nn.Linear(features, dim),
        )
        generator = ConditionalGenerator(real.image_shape, real.num_classes, dim=dim, width=width)
    return Autoencoder(initialise(encoder, rng).to(real.device), initialise(generator, rng).to(real.device))


def _add_gradient(autoencoder: Autoencoder, real: RealData, shape: tuple[int, int], rng: torch.Generator) -> None:
    x, y = real.mixed(shape[0], derive(rng, "real"))
    classes = y.argmax(1)
    size = micro_batch(autoencoder.generator, x.device, len(x))
    # Drawn for the whole batch, because the size of its pieces depends on the device.
    noise = torch.randn(shape, generator=derive(rng, "noise")).to(x)[: len(x)]
    for part in pieces(len(x), size):
        latents = autoencoder.encoder(x[part])
        images = autoencoder.generator(latents + _LATENT_NOISE * noise[part], classes[part])
        loss = (images - x[part]).square().mean() + _LATENT_PENALTY * latents.square().mean()
        torch.autograd.backward(loss * len(images) / len(x))
