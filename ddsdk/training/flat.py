"""A network as a function of one flat weight vector."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn
from torch.func import functional_call


def weight_vector(network: nn.Module) -> Tensor:
    """Return all parameters of `network` as one detached vector, (P,), in the order of `named_parameters`."""
    return torch.cat([p.detach().reshape(-1) for p in network.parameters()])


@final
class FlatNetwork:
    """A network whose parameters are one vector: ``logits = flat(weights, x)``.

    Buffers, such as the statistics of BatchNorm, are constants.

    Args:
        network: Network that gives layers, shapes and buffers; the values of its parameters are not used.

    Examples:
        >>> import ddsdk
        >>> from ddsdk.training import FlatNetwork, weight_vector
        >>> network = ddsdk.network_factory("convnet", (1, 8, 8), 10, width=4)(ddsdk.generator(0))
        >>> flat = FlatNetwork(network)
        >>> flat(weight_vector(network), ddsdk.load("digits").images[:5].float()).shape
        torch.Size([5, 10])
    """

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._names = [name for name, _ in network.named_parameters()]
        self._shapes = [p.shape for p in network.parameters()]
        self._sizes = [shape.numel() for shape in self._shapes]

    @property
    def size(self) -> int:
        """Number of weights P."""
        return sum(self._sizes)

    def __call__(self, weights: Tensor, x: Tensor) -> Tensor:
        """Return the logits (B, K) of images (B, C, H, W) under `weights`, (P,), with graph to both."""
        slices = torch.split(weights, self._sizes)
        named = {n: p.view(s) for n, p, s in zip(self._names, slices, self._shapes, strict=True)}
        logits: Tensor = functional_call(self._network, named, (x,))
        return logits

    def load_(self, weights: Tensor) -> nn.Module:
        """Copy `weights`, (P,), into the parameters of the network.

        Returns:
            The network itself, changed in place.
        """
        with torch.no_grad():
            for p, values in zip(self._network.parameters(), torch.split(weights, self._sizes), strict=True):
                p.copy_(values.view_as(p))
        return self._network
