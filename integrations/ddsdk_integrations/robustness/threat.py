"""The threat model: the distance by which an attack may move an image, in the unit range."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final, get_args

import torch
from torch import Tensor

from ddsdk.foundation import Checked, PositiveFloat, require

Norm = Literal["linf", "l2"]
_ROUNDING = 1e-5


class BrokenAttackError(RuntimeError):
    """An attack left the range or the radius that it was given: its figures would mean nothing."""


@final
@dataclass(frozen=True)
class Threat(Checked):
    """Everything within a radius of an image that is still an image.

    Attributes:
        norm: ``"linf"``, the largest change of a value, or ``"l2"``, the Euclidean length of the change.
        radius: Radius in the unit range, where a pixel lies in [0, 1]: 8/255 is the usual one of colour images.

    Raises:
        ValueError: If the norm is unknown or the radius is not positive.
    """

    norm: Norm
    radius: PositiveFloat

    def __post_init__(self) -> None:
        require(self.norm in get_args(Norm), "norm", f"be one of {list(get_args(Norm))}", self.norm)
        super().__post_init__()

    @property
    def label(self) -> str:
        """Norm and radius, such as ``linf 0.1``."""
        return f"{self.norm} {self.radius:g}"

    def size(self, change: Tensor) -> Tensor:
        """Return the norm of each change, (B,), of changes (B, C, H, W)."""
        flat = change.flatten(1)
        return flat.abs().amax(1) if self.norm == "linf" else flat.norm(dim=1)

    def project(self, attacked: Tensor, x: Tensor) -> Tensor:
        """Return the images within the radius of `x` and within range that lie next to `attacked`.

        Images of a distilled set may leave the unit range; their range ends where they are.

        Args:
            attacked: Images (B, C, H, W), in the unit range or out of it.
            x: Images that were attacked, (B, C, H, W).
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
        """Return the step of size one along which a loss of this gradient, (B, C, H, W), rises fastest."""
        if self.norm == "linf":
            return gradient.sign()
        return gradient / self.size(gradient).clamp_min(1e-12).view(-1, 1, 1, 1)

    def random_start(self, x: Tensor, rng: torch.Generator) -> Tensor:
        """Return a random point of the ball around each image (B, C, H, W), uniform for linf; `rng` advances."""
        if self.norm == "linf":
            change = self.radius * (2 * torch.rand(x.shape, generator=rng, dtype=x.dtype) - 1)
        else:
            change = self.direction(torch.randn(x.shape, generator=rng, dtype=x.dtype))
            change = change * self.radius * torch.rand(len(x), 1, 1, 1, generator=rng, dtype=x.dtype)
        return self.project(x + change.to(x.device), x)

    def check(self, attacked: Tensor, x: Tensor) -> Tensor:
        """Return `attacked`, after asserting its shape, range and radius.

        Raises:
            BrokenAttackError: If a value is not finite or leaves [0, 1], or an image has moved too far.
        """
        if attacked.shape != x.shape:
            raise BrokenAttackError(f"an attack must keep the shape {tuple(x.shape)}, got {tuple(attacked.shape)}")
        if not bool(torch.isfinite(attacked).all()):
            raise BrokenAttackError("an attack must give finite images, got NaN or infinity")
        low, high = float(attacked.min()), float(attacked.max())
        if low < -_ROUNDING or high > 1 + _ROUNDING:
            raise BrokenAttackError(f"an attack must stay in the unit range [0, 1], got {low:g}..{high:g}")
        far = float(self.size(attacked - x).max())
        if far > self.radius * (1 + 1e-4) + _ROUNDING:
            raise BrokenAttackError(f"an attack must stay within {self.label}, got a change of {far:g}")
        return attacked
