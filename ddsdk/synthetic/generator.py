"""A small conditional generator that trains in minutes on a CPU, as the second half of an autoencoder.

The encoder is there to train the generator and to give inversion a good start; it is no part of a set.
"""

from __future__ import annotations

import math
from typing import NamedTuple, final

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from ddsdk.data import RealData
from ddsdk.foundation import derive, require, require_count, require_rate
from ddsdk.networks import initialise
from ddsdk.training import micro_batch, pieces

_SHRINK = 1e-3
_NOISE = 0.1


@final
class ConditionalGenerator(nn.Module):
    """Latents and classes to images: one linear layer, then twice an enlargement and a 3x3 convolution.

    The class enters as a one-hot vector beside the latent, so the linear layer holds an embedding of each class.

    Args:
        image_shape: Shape of an image, (C, H, W), in the value space.
        num_classes: Number of classes K.
        dim: Length of a latent.
        width: Channels of the inner maps: 2 `width` at a quarter of the resolution, `width` at half of it.
    """

    def __init__(self, image_shape: tuple[int, int, int], num_classes: int, *, dim: int = 32, width: int = 16) -> None:
        super().__init__()
        for name, value in (("num_classes", num_classes), ("dim", dim), ("width", width)):
            require_count(name, value)
        c, height, columns = image_shape
        small = (2 * width, math.ceil(height / 4), math.ceil(columns / 4))
        middle = (math.ceil(height / 2), math.ceil(columns / 2))
        self._num_classes = num_classes
        self.stages = nn.Sequential(
            nn.Sequential(nn.Linear(dim + num_classes, math.prod(small)), nn.Unflatten(1, small), nn.LeakyReLU(0.1)),
            nn.Sequential(nn.Upsample(middle), nn.Conv2d(2 * width, width, 3, padding=1), nn.LeakyReLU(0.1)),
            nn.Sequential(nn.Upsample((height, columns)), nn.Conv2d(width, c, 3, padding=1)),
        )

    def forward(self, latents: Tensor, classes: Tensor) -> Tensor:
        """Return images (B, C, H, W) of latents (B, dim) and classes (B,) int64."""
        images: Tensor = self.stages(self._joined(latents, classes))
        return images

    def inner(self, latents: Tensor, classes: Tensor, layer: int) -> Tensor:
        """Return the maps before stage `layer`, 1 or 2, which `after(layer)` turns into images."""
        require(layer in (1, 2), "layer", "be 1 or 2", layer)
        maps: Tensor = self.stages[:layer](self._joined(latents, classes))
        return maps

    def after(self, layer: int) -> nn.Sequential:
        """Return the stages from `layer`, 1 or 2, on: a generator whose latents are maps and need no class."""
        require(layer in (1, 2), "layer", "be 1 or 2", layer)
        return self.stages[layer:]

    def _joined(self, latents: Tensor, classes: Tensor) -> Tensor:
        return torch.cat([latents, one_hot(classes, self._num_classes).to(latents)], 1)


class Autoencoder(NamedTuple):
    """An encoder from images (B, C, H, W) to latents (B, dim), and a generator from latents and classes to images."""

    encoder: nn.Module
    generator: ConditionalGenerator

    @torch.no_grad()
    def latents(self, images: Tensor) -> Tensor:
        """Return the latents of `images`, (N, dim), taken in micro-batches."""
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
    """Train a conditional generator on real images, as a regularised autoencoder.

    min mean |G(E(x) + noise, class) - x|^2 + 0.001 mean |E(x)|^2 with Gaussian noise of deviation 0.1, by Adam whose
    rate falls linearly to zero. There is no adversary.

    Args:
        real: Real images.
        dim: Length of a latent.
        width: Channels of the inner maps, see `ConditionalGenerator`.
        steps: Optimizer steps.
        batch_size: Real images of one step.
        lr: Learning rate of Adam at the start.
        rng: Root of every random number; equal ones give equal weights, which are not kept in a file.

    Cost: two to three minutes on one core for 28 x 28 images.

    References:
        Ghosh et al., "From Variational to Deterministic Autoencoders", ICLR 2020, arXiv:1903.12436.
    """
    require_count("steps", steps)
    require_count("batch_size", batch_size)
    require_rate("lr", lr)
    both = _untrained(real, dim, width, derive(rng, "init"))
    weights = [*both.encoder.parameters(), *both.generator.parameters()]
    optimizer = torch.optim.Adam(weights, lr=lr)
    for i in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * (1 - i / steps)
        _gradient(both, real, batch_size, derive(rng, "step", i))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    for module in both:
        module.requires_grad_(False)
    return both


def _untrained(real: RealData, dim: int, width: int, rng: torch.Generator) -> Autoencoder:
    c, height, columns = real.image_shape
    inside = 2 * width * math.ceil(height / 4) * math.ceil(columns / 4)
    # Without memory: PyTorch would draw weights from its global state.
    with torch.device("meta"):
        encoder = nn.Sequential(
            nn.Conv2d(c, width, 3, stride=2, padding=1),
            nn.LeakyReLU(0.1),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            nn.LeakyReLU(0.1),
            nn.Flatten(),
            nn.Linear(inside, dim),
        )
        generator = ConditionalGenerator(real.image_shape, real.num_classes, dim=dim, width=width)
    return Autoencoder(initialise(encoder, rng).to(real.device), initialise(generator, rng).to(real.device))


def _gradient(both: Autoencoder, real: RealData, batch_size: int, rng: torch.Generator) -> None:
    x, y = real.mixed(batch_size, derive(rng, "real"))
    classes = y.argmax(1)
    size = micro_batch(both.generator, x.device, len(x))
    for i, part in enumerate(pieces(len(x), size)):
        latents = both.encoder(x[part])
        noise = torch.randn(latents.shape, generator=derive(rng, "noise", i)).to(latents)
        images = both.generator(latents + _NOISE * noise, classes[part])
        gap = (images - x[part]).square().mean() + _SHRINK * latents.square().mean()
        torch.autograd.backward(gap * len(images) / len(x))
