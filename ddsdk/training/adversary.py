"""What makes images harder before a student is judged on them: the one hook of adversarial training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor


class Adversary(Protocol):
    """Changes images so that a loss rises, within whatever bounds it knows."""

    def __call__(self, loss: Callable[[Tensor], Tensor], x: Tensor, rng: torch.Generator) -> Tensor:
        """Return images of the same shape, without graph.

        Args:
            loss: From images (B, C, H, W) in the value space to the sum of their losses; differentiable.
            x: The images, in the value space.
            rng: For random starts.
        """
        ...
