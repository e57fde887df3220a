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
    """`network` with its parameters given as one vector: ``logits = flat(weights, x)``.

    Buffers, such as BatchNorm's statistics, are constants.

    Args:
        network: Network with the layers, the shapes and the buffers; its own parameters are not read.
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
        pieces = torch.split(weights, self._sizes)
        named = {n: p.view(s) for n, p, s in zip(self._names, pieces, self._shapes, strict=True)}
        logits: Tensor = functional_call(self._network, named, (x,))
        return logits

    def load_(self, weights: Tensor) -> nn.Module:
        """Write `weights`, (P,), into the network's own parameters and return it."""
        with torch.no_grad():
            for p, piece in zip(self._network.parameters(), torch.split(weights, self._sizes), strict=True):
                p.copy_(piece.view_as(p))
        return self._network
