"""Structure of all student networks: a body that computes features, and a linear classifier."""

from __future__ import annotations

from typing import final

from torch import Tensor, nn


@final
class Network(nn.Module):
    """A student network: `body` computes the features of an image, and `head` the logits.

    The body of a network of the catalogue is an ``nn.Sequential`` of stages. Layer-wise objectives, such as that of
    CAFE, run the stages one after the other.

    Args:
        body: Module from images (B, C, H, W) to features of any shape (B, ...).
        head: Linear layer from the F flattened features to K logits.

    Examples:
        >>> import ddsdk
        >>> import torch
        >>> from torch import nn
        >>> network = ddsdk.networks.Network(nn.Conv2d(1, 4, 3), nn.Linear(4 * 6 * 6, 10))
        >>> network.embed(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 144])
    """

    def __init__(self, body: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.body = body
        self.head = head

    def embed(self, x: Tensor) -> Tensor:
        """Return the flattened features, (B, F), of images (B, C, H, W)."""
        features: Tensor = self.body(x)
        return features.flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, (B, K), of images (B, C, H, W)."""
        logits: Tensor = self.head(self.embed(x))
        return logits
