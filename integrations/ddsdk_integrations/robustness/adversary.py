"""Attacks inside of training and distillation: on value-space images, with bounds in the unit range."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

import ddsdk as dd
from ddsdk.foundation import require_count, require_rate
from ddsdk_integrations.robustness.attacks import ascend
from ddsdk_integrations.robustness.threat import Threat


@final
@dataclass(frozen=True, kw_only=True)
class PixelAdversary:
    """A few steps of projected gradient ascent from a random start, for `ddsdk.training.Adversary`.

    Images come and go in the value space; the step, the radius and the range are those of pixels.

    Attributes:
        preprocess: From the unit range to the value space.
        threat: How far it may go.
        steps: Of the attack; 7 to 10 are usual in training. Weaker than the attacks of a judge, on purpose.
        reach: Step size times steps, in radii.
    """

    preprocess: dd.Preprocess
    threat: Threat
    steps: int = 7
    reach: float = 2.5

    def __post_init__(self) -> None:
        require_count("steps", self.steps)
        require_rate("reach", self.reach)

    def __call__(self, loss: Callable[[Tensor], Tensor], x: Tensor, rng: torch.Generator) -> Tensor:
        """Return attacked images, (B, C, H, W) in the value space, without graph.

        Args:
            loss: From value-space images to the sum of their losses.
            x: (B, C, H, W) in the value space.
            rng: A CPU generator; it advances.
        """
        pixels = self.preprocess.inverse(x.detach())
        attacked = ascend(
            lambda z: loss(self.preprocess(z)),
            pixels,
            self.threat,
            start=self.threat.random_start(pixels, rng),
            steps=self.steps,
            step_size=self.reach * self.threat.radius / self.steps,
        )
        return self.preprocess(attacked)
