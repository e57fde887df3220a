"""The kernel of random convolutional networks, an approximation of the kernel of infinitely wide ones."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import final

import torch
from torch import Tensor, nn

from ddsdk.foundation import CheckedDataclass, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, generator
from ddsdk.networks import embedding, network_factory
from ddsdk.training.fit import embeddings


@final
@dataclass(frozen=True, kw_only=True)
class RandomConvNets(CheckedDataclass):
    """The mean over random ConvNets f with F features of slope <f(x), f(z)> / F + bias.

    The networks have no normalisation and He's initial weights, with biases from N(0, 0.01). The values are those of
    RFAD; with many wide networks they approach the kernel of infinitely wide ones.

    Attributes:
        networks: Number of networks, which are drawn from the seed.
        width: Number of channels of each block.
        depth: Number of blocks; 0 for the papers' number for the size of the images.
        slope: Factor of the inner product.
        bias: Constant that is added to the kernel.
        seed: Seed of the networks.

    Cost: one forward pass of each network over both batches.

    References:
        Loo et al., "Efficient Dataset Distillation Using Random Feature Approximation", NeurIPS 2022, arXiv:2210.12067.

    Examples:
        >>> import ddsdk
        >>> x = ddsdk.load("digits").images[:6].float()
        >>> ddsdk.training.RandomConvNets(networks=2, width=8)(x, x[:4]).shape
        torch.Size([6, 4])
    """

    networks: PositiveInt = 8
    width: PositiveInt = 256
    depth: NonNegativeInt = 0
    slope: PositiveFloat = 2.0
    bias: NonNegativeFloat = 0.01
    seed: NonNegativeInt = 0

    def __call__(self, x: Tensor, z: Tensor) -> Tensor:
        """Return the kernel values, (B, B') float64."""
        total = x.new_zeros((), dtype=torch.float64)
        for i in range(self.networks):
            network = _network(tuple(x.shape[1:]), self.width, self.depth, self.seed, i, str(x.device))
            of_x = _features(network, x)
            of_z = of_x if z is x else _features(network, z)
            total = total + of_x @ of_z.T / of_x.shape[1]
        return self.slope / self.networks * total + self.bias


@lru_cache(maxsize=64)
def _network(shape: tuple[int, int, int], width: int, depth: int, seed: int, number: int, device: str) -> nn.Module:
    options = {"width": width, "norm": "none", "init": "he-normal-biased", **({"depth": depth} if depth else {})}
    network = network_factory("convnet", shape, 2, **options)(generator(seed, "random ConvNets", number))
    frozen: nn.Module = network.requires_grad_(False).to(device)
    return frozen


def _features(network: nn.Module, x: Tensor) -> Tensor:
    return (embedding(network)(x) if x.requires_grad else embeddings(network, x)).double()
