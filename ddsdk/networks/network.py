"""The one shape that every student has: a body that makes features and a linear head."""

from __future__ import annotations

from typing import final

from torch import Tensor, nn


@final
class Network(nn.Module):
    """A classifier: features from `body`, logits from `head`.

    Feature matching reads `embed`, layer-wise objectives walk over `body` (an ``nn.Sequential`` of stages in
    every network of the catalogue), and everything else calls the network.

    Args:
        body: Maps images (B, C, H, W) to features of any shape (B, ...).
        head: Maps the F flattened features to K logits.
    """

    def __init__(self, body: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.body = body
        self.head = head

    def embed(self, x: Tensor) -> Tensor:
        """Return the flattened output of the body.

        Args:
            x: Images in the value space, (B, C, H, W).

        Returns:
            Features, (B, F).
        """
        features: Tensor = self.body(x)
        return features.flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, (B, K), of images (B, C, H, W)."""
        logits: Tensor = self.head(self.embed(x))
        return logits
