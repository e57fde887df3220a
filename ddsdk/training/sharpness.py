"""Training towards minima that are flat in the weights, and towards losses that are flat in the images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from ddsdk.data import Batch
from ddsdk.foundation import Checked, NonNegativeFloat, PositiveFloat
from ddsdk.training.fit import batch_gradient, evaluating_mode
from ddsdk.training.losses import Loss, soft_cross_entropy


def sharpness_aware_step(
    network: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch, *, rho: float, alpha: float
) -> float:
    """Take one adaptive GSAM step on the mean cross-entropy of a batch; return the loss before it.

    The gradient p is taken at w + rho |w|^2 g / || |w| g ||, with g the gradient at w; then the part of g that is
    orthogonal to p is subtracted alpha times, which lowers the gap between both losses.

    Args:
        network: Network from (B, C, H, W) to logits (B, K).
        optimizer: Optimizer of the network's parameters.
        batch: Images and label probabilities.
        rho: Radius of the perturbation, > 0; 0.01 in FTD.
        alpha: Weight of the orthogonal part, 0.3 or 1 in FTD; 0 is adaptive SAM.

    References:
        Zhuang et al., "Surrogate Gap Minimization Improves Sharpness-Aware Training", ICLR 2022, arXiv:2203.08065.
        Kwon et al., "ASAM", ICML 2021, arXiv:2102.11600.
    """
    weights = [p for p in network.parameters() if p.requires_grad]
    loss = batch_gradient(network, batch)
    plain = _gradients(weights)
    scaled = [w.detach().abs() * g for w, g in zip(weights, plain, strict=True)]
    length = _dot(scaled, scaled).sqrt() + 1e-12
    moves = [rho * w.detach().abs() * s / length for w, s in zip(weights, scaled, strict=True)]
    kept = [w.detach().clone() for w in weights]
    with torch.no_grad():
        for w, move in zip(weights, moves, strict=True):
            w.add_(move)
    batch_gradient(network, batch)
    sharp = _gradients(weights)
    share = _dot(plain, sharp) / (_dot(sharp, sharp) + 1e-24)
    with torch.no_grad():
        for w, old, g, p in zip(weights, kept, plain, sharp, strict=True):
            w.copy_(old)
            w.grad = p - alpha * (g - share * p)
    optimizer.step()
    return loss


def _gradients(weights: list[nn.Parameter]) -> list[Tensor]:
    return [torch.zeros_like(w) if w.grad is None else w.grad.clone() for w in weights]


def _dot(a: list[Tensor], b: list[Tensor]) -> Tensor:
    return torch.stack([(x * y).sum() for x, y in zip(a, b, strict=True)]).sum()


@final
@dataclass(frozen=True, kw_only=True)
class CurvaturePenalty(Checked):
    """weight * sum over a batch of ||grad l(x + step g) - grad l(x)||, g the gradient of l at x at length one.

    Gradients are those of each image's loss with respect to the image, in the value space; the norm is Euclidean and
    not squared. For a small step it is step * ||H g||, with H the Hessian of the loss at the image.

    Attributes:
        weight: Weight; 100 in GUARD.
        step: Length of the move, in units of the value space; 3 in GUARD.
        loss: Loss, summed over a batch.

    Differences from the published algorithm: layers are in the mode of evaluation here, as in the authors' code, and
    the gradient passes through both gradients, not through the direction.

    References:
        Moosavi-Dezfooli, Fawzi, Uesato and Frossard, "Robustness via Curvature Regularization, and Vice Versa",
        CVPR 2019, arXiv:1811.09716. Xue et al., "Towards Adversarially Robust Dataset Distillation by Curvature
        Regularization" (GUARD), AAAI 2025, arXiv:2403.10045.
    """

    weight: NonNegativeFloat = 100.0
    step: PositiveFloat = 3.0
    loss: Loss = soft_cross_entropy

    def __call__(self, network: nn.Module, batch: Batch) -> Tensor:
        """Return the penalty of a batch, a sum, with graph to the weights of a network."""
        with evaluating_mode(network), torch.enable_grad():
            x = batch.x.detach().requires_grad_()
            here = self._gradient(network, x, batch.y)
            length = here.detach().flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, 1, 1, 1)
            there = self._gradient(network, x + self.step * here.detach() / length, batch.y)
        # Where both gradients are equal the norm has no derivative.
        return self.weight * ((there - here).flatten(1).square().sum(1) + 1e-20).sqrt().sum()

    def _gradient(self, network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return torch.autograd.grad(self.loss(network(x), y), x, create_graph=True)[0]
