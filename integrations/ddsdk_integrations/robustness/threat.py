"""Threat model: perturbation balls in the unit range, and networks that take images of the unit range."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final, get_args

import torch
from torch import Tensor, nn

import ddsdk as dd
from ddsdk.foundation import CheckedDataclass, PositiveFloat, require
from ddsdk.training import KernelMachine, probabilities

Norm = Literal["linf", "l2"]
_ROUNDING = 1e-5
"""Tolerance for rounding errors of pixel values."""


class BrokenAttackError(RuntimeError):
    """An attack returned images outside of the threat model, so its robust accuracy would be wrong."""


@final
@dataclass(frozen=True)
class Threat(CheckedDataclass):
    """Threat model: all images of the unit range within a radius of the attacked image.

    `ValueError` is raised if the norm is unknown or the radius is not positive.

    Attributes:
        norm: Norm of the perturbation: ``"linf"``, the largest change of a value, or ``"l2"``, the Euclidean length.
        radius: Largest norm of the perturbation, in the unit range, where a pixel lies in [0, 1]; 8/255 is the usual
            linf radius for colour images.

    Examples:
        >>> import torch
        >>> from ddsdk_integrations.robustness import Threat
        >>> threat, x = Threat("linf", 0.1), torch.full((2, 1, 8, 8), 0.5)
        >>> round(float(threat.project(x + 0.3, x).max()), 2)
        0.6
    """

    norm: Norm
    radius: PositiveFloat

    def __post_init__(self) -> None:
        require(self.norm in get_args(Norm), "norm", f"be one of {list(get_args(Norm))}", self.norm)
        super().__post_init__()

    @property
    def label(self) -> str:
        """Norm and radius in one text, such as ``linf 0.1``."""
        return f"{self.norm} {self.radius:g}"

    def size(self, change: Tensor) -> Tensor:
        """Return the norm, (B,), of each perturbation, (B, C, H, W)."""
        flat = change.flatten(1)
        return flat.abs().amax(1) if self.norm == "linf" else flat.norm(dim=1)

    def project(self, attacked: Tensor, x: Tensor) -> Tensor:
        """Return the projection of attacked images to the ball around `x` and to the unit range.

        Synthetic images may lie outside of the unit range; their range is extended to include them.

        Args:
            attacked: Perturbed images, (B, C, H, W), of any value.
            x: Original images, (B, C, H, W).
        """
        change = attacked - x
        if self.norm == "linf":
            change = change.clamp(-self.radius, self.radius)
        else:
            length = self.size(change).clamp_min(1e-12).view(-1, 1, 1, 1)
            change = change * (self.radius / length).clamp_max(1)
        low, high = x.clamp(max=0), x.clamp(min=1)
        return torch.minimum(torch.maximum(x + change, low), high)

    def direction(self, gradient: Tensor) -> Tensor:
        """Return the steepest ascent direction of a gradient, (B, C, H, W): sign for linf, unit vector for l2."""
        if self.norm == "linf":
            return gradient.sign()
        return gradient / self.size(gradient).clamp_min(1e-12).view(-1, 1, 1, 1)

    def random_start(self, x: Tensor, rng: torch.Generator) -> Tensor:
        """Return a random point in the ball around each image, (B, C, H, W), uniform for linf; `rng` advances."""
        if self.norm == "linf":
            change = self.radius * (2 * torch.rand(x.shape, generator=rng, dtype=x.dtype) - 1)
        else:
            change = self.direction(torch.randn(x.shape, generator=rng, dtype=x.dtype))
            change = change * self.radius * torch.rand(len(x), 1, 1, 1, generator=rng, dtype=x.dtype)
        return self.project(x + change.to(x.device), x)

    def check(self, attacked: Tensor, x: Tensor) -> Tensor:
        """Return `attacked`, after checking its shape, range and distance from `x`.

        Raises:
            BrokenAttackError: If the shape changed, a value is not finite or not in [0, 1], or a perturbation exceeds
                the radius.
        """
        if attacked.shape != x.shape:
            raise BrokenAttackError(f"an attack must keep the shape {tuple(x.shape)}, got {tuple(attacked.shape)}")
        if not bool(torch.isfinite(attacked).all()):
            raise BrokenAttackError("an attack must return finite images, got NaN or infinity")
        low, high = float(attacked.min()), float(attacked.max())
        if low < -_ROUNDING or high > 1 + _ROUNDING:
            raise BrokenAttackError(f"an attack must stay in the unit range [0, 1], got {low:g}..{high:g}")
        distance = float(self.size(attacked - x).max())
        if distance > self.radius * (1 + 1e-4) + _ROUNDING:
            raise BrokenAttackError(f"an attack must stay within {self.label}, got a change of {distance:g}")
        return attacked


@final
class KernelClassifier(nn.Module):
    """Kernel ridge regression on a set as a network: its scores take the place of logits.

    Args:
        machine: Kernel machine of `ddsdk.training.kernel_machine`.
        batch: Images (M, C, H, W) in the value space, and label rows (M, K).

    Examples:
        >>> import ddsdk, torch
        >>> from ddsdk_integrations.robustness import KernelClassifier
        >>> real = ddsdk.load("digits")
        >>> machine = ddsdk.training.kernel_machine("fc-ntk", depth=1)
        >>> classifier = KernelClassifier(machine, real.batch(torch.arange(20)))
        >>> classifier(real.batch(torch.arange(5)).x).shape
        torch.Size([5, 10])
    """

    def __init__(self, machine: KernelMachine, batch: dd.Batch) -> None:
        super().__init__()
        self._scores = machine.fitted(batch.x, batch.y)

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores, (B, K), of images (B, C, H, W) in the value space."""
        return self._scores(x).to(x.dtype)


@final
class UnitModel(nn.Module):
    """Trained network for images of the unit range, with normalisation inside the model.

    Attacks clip to the unit range and measure radii there. An attack on a network for normalised images uses a wrong
    threat model without any error message, a mistake in some published tables.

    Args:
        network: Network from images (B, C, H, W) in the value space to logits (B, K). It is set to evaluation mode,
            and its parameters no longer require gradients.
        preprocess: Map from the unit range to the value space.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.robustness import UnitModel
        >>> real = ddsdk.load("digits")
        >>> network = ddsdk.network_factory("convnet", real.image_shape, 10, width=4)(ddsdk.generator("weights"))
        >>> model = UnitModel(network, real.preprocess)
        >>> model(real.unit_images()[:5]).shape
        torch.Size([5, 10])
    """

    def __init__(self, network: nn.Module, preprocess: dd.Preprocess) -> None:
        super().__init__()
        self.network = network.requires_grad_(False)
        self.preprocess = preprocess
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, (B, K), of images (B, C, H, W); values outside of [0, 1] raise a ValueError."""
        low, high = float(x.detach().amin()), float(x.detach().amax())
        inside = low >= -_ROUNDING and high <= 1 + _ROUNDING
        require(inside, "x", "lie in the unit range [0, 1]", (low, high))
        logits: Tensor = self.network(self.preprocess(x))
        return logits

    def train(self, mode: bool = True) -> UnitModel:
        """Stay in evaluation mode: training mode would change running statistics during the attack.

        Returns:
            This model, in evaluation mode.
        """
        require(not mode, "mode", "be False for a network under attack", mode)
        super().train(False)
        return self

    @torch.no_grad()
    def correct(self, x: Tensor, labels: Tensor) -> Tensor:
        """Return whether the largest logit of each image, (B, C, H, W), is that of its label, (B,), as (B,) bool."""
        return probabilities(self, x).argmax(1) == labels
