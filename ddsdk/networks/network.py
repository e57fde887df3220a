"""The one shape that every student has: a body that makes features and a linear head."""

from __future__ import annotations

from typing import final

from torch import Tensor, nn


@final
class Network(nn.Module):
    """A classifier: features from `body`, logits from `head`.

    In the catalogue the body is an ``nn.Sequential`` of stages, which layer-wise objectives pass one by one.

    Args:
        body: Module from images (B, C, H, W) to features of any shape (B, ...).
        head: Linear layer from the F flattened features to K logits.
    """

    def __init__(self, body: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.body = body
        self.head = head

    def embed(self, x: Tensor) -> Tensor:
        """Return the flattened output of the body, (B, F), for images (B, C, H, W)."""
        features: Tensor = self.body(x)
        return features.flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, (B, K), of images (B, C, H, W)."""
        logits: Tensor = self.head(self.embed(x))
        return logits
