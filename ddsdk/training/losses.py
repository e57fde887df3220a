"""Training losses by name, and the interface of attacks for adversarial training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

Loss = Callable[[Tensor, Tensor], Tensor]
"""Function of outputs (B, K) and label rows (B, K): the loss, summed over the batch so that micro-batches add up."""


def soft_cross_entropy(outputs: Tensor, labels: Tensor) -> Tensor:
    """Return -sum of y log_softmax(f) over batch and classes; the rows y may be any real numbers."""
    return cross_entropy(outputs, labels, reduction="sum")


def half_squared_error(outputs: Tensor, labels: Tensor) -> Tensor:
    """Return half the sum of (f - y)^2 over batch and classes: the loss of regression on label rows."""
    return 0.5 * (outputs - labels).square().sum()


LOSSES: Mapping[str, Loss] = {"cross-entropy": soft_cross_entropy, "mse": half_squared_error}
"""Losses by the name that a training protocol stores."""


class InputAttack(Protocol):
    """An adversarial attack: it changes images within a bound so that their loss rises."""

    def __call__(self, loss: Callable[[Tensor], Tensor], x: Tensor, rng: torch.Generator) -> Tensor:
        """Return the attacked images, of the same shape and without graph.

        Args:
            loss: Differentiable function from images (B, C, H, W) in the value space to the sum of their losses.
            x: Images in the value space, (B, C, H, W).
            rng: Root of the random starts of the attack.
        """
        ...
