"""The threat model: distances in the unit range, and networks as attacks must see them, from there to logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final, get_args

import torch
from torch import Tensor, nn

import ddsdk as dd
from ddsdk.foundation import Checked, PositiveFloat, require
from ddsdk.training import KernelMachine, probabilities

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


@final
class KernelClassifier(nn.Module):
    """Kernel ridge regression on a set, as a network whose scores are its logits.

    Args:
        machine: Machine of `ddsdk.training.kernel_machine`.
        batch: Images (M, C, H, W) in the value space, and label rows (M, K).
    """

    def __init__(self, machine: KernelMachine, batch: dd.Batch) -> None:
        super().__init__()
        self._machine, self._batch = machine, batch

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores, (B, K), of value-space images (B, C, H, W)."""
        return self._machine.predict(self._batch.x, self._batch.y, x).to(x.dtype)


@final
class UnitModel(nn.Module):
    """A finished network that takes images in [0, 1] and brings them to its value space by itself.

    Attacks clamp to the unit range and measure radii there. A network that takes normalised images is attacked in the
    wrong space without any error: published tables have been wrong for it.

    Args:
        network: Network from images (B, C, H, W) in the value space to logits (B, K). It is put in the mode of
            evaluation, and its weights are constants from now on.
        preprocess: Map from the unit range to the value space.
    """

    def __init__(self, network: nn.Module, preprocess: dd.Preprocess) -> None:
        super().__init__()
        self.network = network.requires_grad_(False)
        self.preprocess = preprocess
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, (B, K), of images (B, C, H, W).

        Raises:
            ValueError: If a value lies outside of [0, 1].
        """
        low, high = float(x.detach().amin()), float(x.detach().amax())
        inside = low >= -_ROUNDING and high <= 1 + _ROUNDING
        require(inside, "x", "lie in the unit range [0, 1]", (low, high))
        logits: Tensor = self.network(self.preprocess(x))
        return logits

    def train(self, mode: bool = True) -> UnitModel:
        """Stay in the mode of evaluation: a network that trains while it is attacked is another one after it."""
        require(not mode, "mode", "be False for a network under attack", mode)
        super().train(False)
        return self

    @torch.no_grad()
    def correct(self, x: Tensor, labels: Tensor) -> Tensor:
        """Return whether each image (B, C, H, W) has its label (B,) as the largest logit, (B,) bool."""
        return probabilities(self, x).argmax(1) == labels
