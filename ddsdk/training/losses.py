"""Losses of training by the names that an artefact gives them, and the hook of adversarial training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

Loss = Callable[[Tensor, Tensor], Tensor]
"""From outputs (B, K) and label rows (B, K) to the sum over the batch, so that parts of a batch add up."""


def soft_cross_entropy(outputs: Tensor, labels: Tensor) -> Tensor:
    """Return -sum of y log_softmax(f) over batch and classes; the rows y may be any real numbers."""
    return cross_entropy(outputs, labels, reduction="sum")


def half_squares(outputs: Tensor, labels: Tensor) -> Tensor:
    """Return 1/2 the sum of (f - y)^2 over batch and classes: regression on the label rows."""
    return 0.5 * (outputs - labels).square().sum()


LOSSES: Mapping[str, Loss] = {"cross-entropy": soft_cross_entropy, "mse": half_squares}


class Adversary(Protocol):
    """A change of images that raises a loss, within bounds of its own."""

    def __call__(self, loss: Callable[[Tensor], Tensor], x: Tensor, rng: torch.Generator) -> Tensor:
        """Return images of the same shape, without graph.

        Args:
            loss: Differentiable function from images (B, C, H, W) in the value space to the sum of their losses.
            x: Images in the value space.
            rng: Root of random starts.
        """
        ...
