"""Sharpness-aware steps: train towards flat minima, whose trajectories are easier to follow."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ddsdk.data import Batch
from ddsdk.training.fit import batch_gradient


def sharpness_aware_step(
    network: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch, *, rho: float, alpha: float
) -> float:
    """Take one adaptive GSAM step on the mean cross-entropy of a batch; return the loss before it.

    The gradient p is taken at w + rho |w|^2 g / || |w| g ||, with g the gradient at w; then the part of g that is
    orthogonal to p is subtracted alpha times, which lowers the gap between both losses.

    Args:
        network: Maps (B, C, H, W) to logits (B, K).
        optimizer: Over the network's parameters.
        batch: Images and label probabilities.
        rho: Radius of the perturbation, > 0. FTD: 0.01.
        alpha: Weight of the orthogonal part; 0 is adaptive SAM. FTD: 0.3 or 1.

    Cost: two forwards and backwards.

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
