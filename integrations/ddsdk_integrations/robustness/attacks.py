"""Attacks on finished networks: one gradient step, and projected gradient ascent with restarts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, final

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ddsdk.foundation import derive, require_count, require_rate
from ddsdk.training import micro_batch, pieces
from ddsdk_integrations.robustness.threat import Threat
from ddsdk_integrations.robustness.unit_model import UnitModel

Loss = Callable[[Tensor], Tensor]


class Attack(Protocol):
    """Looks for images within a threat that a network gets wrong. A frozen dataclass of its settings."""

    @property
    def name(self) -> str:
        """What tables call it."""
        ...

    def __call__(self, model: UnitModel, x: Tensor, labels: Tensor, threat: Threat, rng: torch.Generator) -> Tensor:
        """Return attacked images, (B, C, H, W) in the unit range.

        Args:
            model: The network.
            x: (B, C, H, W) in the unit range.
            labels: (B,) int64.
            threat: How far it may go.
            rng: For whatever is random.
        """
        ...


def ascend(loss: Loss, x: Tensor, threat: Threat, *, start: Tensor, steps: int, step_size: float) -> Tensor:
    """Return where `steps` projected gradient steps lead that raise a loss.

    Each step goes `step_size` along the steepest direction of the norm, and then back into the ball and the range. The
    gradient is taken at the projected image and never through the projection: there, clamped pixels have none.

    Args:
        loss: From images (B, C, H, W) to the sum of their losses.
        x: The images that are attacked.
        threat: The ball.
        start: Where to begin, (B, C, H, W).
        steps: Steps.
        step_size: In the unit range.
    """
    attacked = start.detach()
    for _ in range(steps):
        with torch.enable_grad():
            attacked.requires_grad_()
            (gradient,) = torch.autograd.grad(loss(attacked), attacked)
        moved = attacked.detach() + step_size * threat.direction(gradient)
        attacked = threat.project(moved, x).detach()
    return attacked


@final
@dataclass(frozen=True)
class FGSM:
    """One step as long as the radius along the sign of the gradient: a sanity check, and no judge.

    References:
        Goodfellow, Shlens and Szegedy, "Explaining and Harnessing Adversarial Examples", ICLR 2015, arXiv:1412.6572.
    """

    @property
    def name(self) -> str:
        """FGSM."""
        return "FGSM"

    def __call__(
        self,
        model: UnitModel,
        x: Tensor,
        labels: Tensor,
        threat: Threat,
        rng: torch.Generator,  # noqa: ARG002
    ) -> Tensor:
        """Return attacked images; see `Attack`. Nothing is random."""
        return _in_pieces(
            model, x, labels, lambda loss, z: ascend(loss, z, threat, start=z, steps=1, step_size=threat.radius)
        )


@final
@dataclass(frozen=True, kw_only=True)
class PGD:
    """Projected gradient ascent on the cross-entropy from random starts; an image that gives in is done.

    Attributes:
        steps: Of each restart.
        restarts: The second one and those after it attack what is left.
        reach: Step size times steps, in radii: 2.5 lets a run cross the ball.

    References:
        Madry, Makelov, Schmidt, Tsipras and Vladu, "Towards Deep Learning Models Resistant to Adversarial Attacks",
        ICLR 2018, arXiv:1706.06083.

    Cost: at most steps x restarts forwards and backwards of the network.
    """

    steps: int = 50
    restarts: int = 5
    reach: float = 2.5

    def __post_init__(self) -> None:
        require_count("steps", self.steps)
        require_count("restarts", self.restarts)
        require_rate("reach", self.reach)

    @property
    def name(self) -> str:
        """Such as PGD-50 x 5."""
        return f"PGD-{self.steps}" + (f" x {self.restarts}" if self.restarts > 1 else "")

    def __call__(self, model: UnitModel, x: Tensor, labels: Tensor, threat: Threat, rng: torch.Generator) -> Tensor:
        """Return attacked images; see `Attack`."""
        best, size = x.clone(), self.reach * threat.radius / self.steps
        left = torch.arange(len(x), device=x.device)
        for i in range(self.restarts):
            if not len(left):
                break
            key = derive(rng, "restart", i)

            def climb(loss: Loss, z: Tensor, key: torch.Generator = key) -> Tensor:
                start = threat.random_start(z, key)
                return ascend(loss, z, threat, start=start, steps=self.steps, step_size=size)

            best[left] = _in_pieces(model, x[left], labels[left], climb)
            left = left[model.correct(best[left], labels[left])]
        return best


def _in_pieces(model: UnitModel, x: Tensor, labels: Tensor, attack: Callable[[Loss, Tensor], Tensor]) -> Tensor:
    """Attack micro-batches: every image's gradient is its own."""
    size = micro_batch(model, x.device, len(x))
    found = []
    for part in pieces(len(x), size):
        truth = labels[part]
        found.append(attack(lambda z, y=truth: cross_entropy(model(z), y, reduction="sum"), x[part]))  # type: ignore[misc]
    return torch.cat(found) if found else x


def surviving(
    attack: Attack, model: UnitModel, x: Tensor, labels: Tensor, threat: Threat, rng: torch.Generator
) -> Tensor:
    """Return which images, (B,) bool, a network gets right before an attack and after it; bounds are asserted.

    Args:
        attack: It sees only images that the network gets right.
        model: The network.
        x: (B, C, H, W) in the unit range.
        labels: (B,) int64.
        threat: How far it may go.
        rng: For the attack.

    Raises:
        BrokenAttackError: If an attacked image leaves the ball or the unit range.
    """
    kept = model.correct(x, labels)
    right = kept.nonzero().flatten()
    if len(right):
        attacked = threat.check(attack(model, x[right], labels[right], threat, rng), x[right])
        kept[right] = model.correct(attacked, labels[right])
    return kept
