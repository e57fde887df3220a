"""Curvature of the loss at its inputs: networks that are flat there are harder to attack."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from ddsdk.data import Batch
from ddsdk.foundation import require, require_rate
from ddsdk.training.fit import evaluating_mode
from ddsdk.training.losses import Loss, soft_cross_entropy


@final
@dataclass(frozen=True, kw_only=True)
class CurvaturePenalty:
    """weight * sum over a batch of ||grad l(x + step g) - grad l(x)||, g the gradient of l at x at length one.

    Gradients are those of each image's loss with respect to the image, in the value space; the norm is Euclidean and
    not squared. For a small step it is step * ||H g||, with H the Hessian of the loss at the image.

    Attributes:
        weight: Not negative. GUARD: 100.
        step: Length of the move, in units of the value space, > 0. GUARD: 3.
        loss: Summed over a batch.

    Differences from the published algorithm: layers are in the mode of evaluation here, as in the authors' code, and
    the gradient passes through both gradients, not through the direction.

    Cost: three more backward passes.

    References:
        Moosavi-Dezfooli, Fawzi, Uesato and Frossard, "Robustness via Curvature Regularization, and Vice Versa",
        CVPR 2019, arXiv:1811.09716. Xue et al., "Towards Adversarially Robust Dataset Distillation by Curvature
        Regularization" (GUARD), AAAI 2025, arXiv:2403.10045.
    """

    weight: float = 100.0
    step: float = 3.0
    loss: Loss = soft_cross_entropy

    def __post_init__(self) -> None:
        require(0 <= self.weight < math.inf, "weight", "be finite and not negative", self.weight)
        require_rate("step", self.step)

    def __call__(self, network: nn.Module, batch: Batch) -> Tensor:
        """Return the penalty of a batch, a sum, with graph to the weights.

        Args:
            network: Maps (B, C, H, W) to logits (B, K).
            batch: Images and label rows.
        """
        with evaluating_mode(network), torch.enable_grad():
            x = batch.x.detach().requires_grad_()
            here = self._gradient(network, x, batch.y)
            length = here.detach().flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, 1, 1, 1)
            there = self._gradient(network, x + self.step * here.detach() / length, batch.y)
        # Where both gradients are equal the norm has no derivative.
        return self.weight * ((there - here).flatten(1).square().sum(1) + 1e-20).sqrt().sum()

    def _gradient(self, network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return torch.autograd.grad(self.loss(network(x), y), x, create_graph=True)[0]
