"""Sharpness-aware training steps, and a penalty on the curvature of the loss in the images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from ddsdk.data import Batch
from ddsdk.foundation import CheckedDataclass, NonNegativeFloat, PositiveFloat
from ddsdk.training.fit import batch_gradient, evaluating_mode
from ddsdk.training.losses import Loss, soft_cross_entropy


def sharpness_aware_step(
    network: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch, *, rho: float, alpha: float
) -> float:
    """Take one adaptive GSAM step on the mean cross-entropy of a batch.

    With g the gradient at the weights w, the gradient p is taken at w + rho |w|^2 g / || |w| g ||. The step follows p
    minus alpha times the part of g that is orthogonal to p, which lowers the gap between the losses at both points.

    Args:
        network: Network from images (B, C, H, W) to logits (B, K).
        optimizer: Optimizer of the network's parameters.
        batch: Images and label probabilities of the step.
        rho: Radius of the perturbation, > 0; 0.01 in FTD.
        alpha: Weight of the orthogonal part, at least 0; 0.3 or 1 in FTD, and 0 for adaptive SAM.

    Returns:
        The mean loss before the step.

    References:
        Zhuang et al., "Surrogate Gap Minimization Improves Sharpness-Aware Training", ICLR 2022, arXiv:2203.08065.
        Kwon et al., "ASAM", ICML 2021, arXiv:2102.11600.

    Examples:
        >>> import ddsdk, torch
        >>> real = ddsdk.load("digits")
        >>> network = ddsdk.network_factory("convnet", real.image_shape, 10, width=4)(ddsdk.generator(0))
        >>> optimizer, batch = torch.optim.SGD(network.parameters(), lr=0.01), real.batch(torch.arange(32))
        >>> ddsdk.training.sharpness_aware_step(network, optimizer, batch, rho=0.01, alpha=1.0) > 0
        True
    """
    weights = [p for p in network.parameters() if p.requires_grad]
    loss = batch_gradient(network, batch)
    gradient = _gradients(weights)
    scaled = [w.detach().abs() * g for w, g in zip(weights, gradient, strict=True)]
    length = _dot(scaled, scaled).sqrt() + 1e-12
    perturbation = [rho * w.detach().abs() * s / length for w, s in zip(weights, scaled, strict=True)]
    original_weights = [w.detach().clone() for w in weights]
    with torch.no_grad():
        for w, move in zip(weights, perturbation, strict=True):
            w.add_(move)
    batch_gradient(network, batch)
    perturbed_gradient = _gradients(weights)
    projection = _dot(gradient, perturbed_gradient) / (_dot(perturbed_gradient, perturbed_gradient) + 1e-24)
    with torch.no_grad():
        for w, original, g, p in zip(weights, original_weights, gradient, perturbed_gradient, strict=True):
            w.copy_(original)
            w.grad = p - alpha * (g - projection * p)
    optimizer.step()
    return loss


def _gradients(weights: list[nn.Parameter]) -> list[Tensor]:
    return [torch.zeros_like(w) if w.grad is None else w.grad.clone() for w in weights]


def _dot(a: list[Tensor], b: list[Tensor]) -> Tensor:
    return torch.stack([(x * y).sum() for x, y in zip(a, b, strict=True)]).sum()


@final
@dataclass(frozen=True, kw_only=True)
class CurvaturePenalty(CheckedDataclass):
    """Penalty on the curvature of the loss in the images: weight sum_x ||grad l(x + step g) - grad l(x)||.

    The sum is over the images x of a batch; grad l is the gradient of an image's loss in its pixels, in the value
    space; g is grad l(x) at length one. The norm is Euclidean and not squared. For a small step it is step ||H g||,
    with H the Hessian of the loss in the image.

    Attributes:
        weight: Weight of the penalty, at least 0; 100 in GUARD.
        step: Length of the step, in units of the value space; 3 in GUARD.
        loss: Loss, summed over a batch, see `LOSSES`.

    Differences from the published algorithm: the network is in evaluation mode, as in the authors' code. The
    derivative passes through both gradients, and not through the direction g.

    References:
        Moosavi-Dezfooli, Fawzi, Uesato and Frossard, "Robustness via Curvature Regularization, and Vice Versa",
        CVPR 2019, arXiv:1811.09716. Xue et al., "Towards Adversarially Robust Dataset Distillation by Curvature
        Regularization" (GUARD), AAAI 2025, arXiv:2403.10045.

    Examples:
        >>> import ddsdk, torch
        >>> real = ddsdk.load("digits")
        >>> network = ddsdk.network_factory("convnet", real.image_shape, 10, width=4)(ddsdk.generator(0))
        >>> penalty = ddsdk.training.CurvaturePenalty(weight=1.0)
        >>> bool(penalty(network, real.batch(torch.arange(8))) > 0)
        True
    """

    weight: NonNegativeFloat = 100.0
    step: PositiveFloat = 3.0
    loss: Loss = soft_cross_entropy

    def __call__(self, network: nn.Module, batch: Batch) -> Tensor:
        """Return the penalty, summed over a batch, with graph to the weights of the network."""
        with evaluating_mode(network), torch.enable_grad():
            x = batch.x.detach().requires_grad_()
            gradient = self._gradient(network, x, batch.y)
            length = gradient.detach().flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, 1, 1, 1)
            moved_gradient = self._gradient(network, x + self.step * gradient.detach() / length, batch.y)
        # The small number keeps the derivative of the root finite where both gradients are equal.
        return self.weight * ((moved_gradient - gradient).flatten(1).square().sum(1) + 1e-20).sqrt().sum()

    def _gradient(self, network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return torch.autograd.grad(self.loss(network(x), y), x, create_graph=True)[0]
