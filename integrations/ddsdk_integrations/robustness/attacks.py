"""Attacks by projected gradient ascent: on finished networks, and inside of training and distillation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, final

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

import ddsdk as dd
from ddsdk.foundation import Checked, PositiveFloat, PositiveInt, derive
from ddsdk.training import micro_batch, pieces
from ddsdk_integrations.robustness.threat import Threat, UnitModel

Loss = Callable[[Tensor], Tensor]


class Attack(Protocol):
    """Looks for images within a threat that a network gets wrong. A frozen dataclass of its settings."""

    @property
    def name(self) -> str:
        """Name in tables."""
        ...

    def __call__(self, model: UnitModel, x: Tensor, labels: Tensor, threat: Threat, rng: torch.Generator) -> Tensor:
        """Return attacked images, (B, C, H, W) in the unit range.

        Args:
            model: Network under attack.
            x: Images (B, C, H, W) in the unit range.
            labels: Classes, (B,) int64.
            threat: Norm and radius.
            rng: Generator of all that is random.
        """
        ...


def ascend(loss: Loss, x: Tensor, threat: Threat, *, start: Tensor, steps: int, step_size: float) -> Tensor:
    """Return the images that `steps` projected gradient steps reach which raise a loss.

    Each step goes `step_size` along the steepest direction of the norm, and then back into the ball and the range. The
    gradient is taken at the projected image and never through the projection: there, clamped pixels have none.

    Args:
        loss: Function from images (B, C, H, W) to the sum of their losses.
        x: Images that are attacked, (B, C, H, W).
        threat: Ball around them.
        start: First images, (B, C, H, W).
        steps: Number of steps.
        step_size: Length of a step in the unit range.
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
@dataclass(frozen=True, kw_only=True)
class PixelAdversary(Checked):
    """A few steps of projected gradient ascent from a random start, for `ddsdk.training.Adversary`.

    Images come and go in the value space; the step, the radius and the range are those of pixels.

    Attributes:
        preprocess: Map from the unit range to the value space.
        threat: Norm and radius.
        steps: Gradient steps; 7 to 10 are usual in training. Weaker than the attacks of a judge, on purpose.
        reach: Step size times steps, in radii.
    """

    preprocess: dd.Preprocess
    threat: Threat
    steps: PositiveInt = 7
    reach: PositiveFloat = 2.5

    def __call__(self, loss: Loss, x: Tensor, rng: torch.Generator) -> Tensor:
        """Return attacked images, (B, C, H, W) in the value space, without graph.

        Args:
            loss: Function from value-space images to the sum of their losses.
            x: Images (B, C, H, W) in the value space.
            rng: CPU generator of the start; it advances.
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


@final
@dataclass(frozen=True)
class FGSM:
    """One step as long as the radius along the sign of the gradient: a sanity check, and no judge.

    References:
        Goodfellow, Shlens and Szegedy, "Explaining and Harnessing Adversarial Examples", ICLR 2015, arXiv:1412.6572.
    """

    name = "FGSM"

    def __call__(self, model: UnitModel, x: Tensor, labels: Tensor, threat: Threat, rng: torch.Generator) -> Tensor:  # noqa: ARG002
        """Return attacked images; see `Attack`. Nothing is random."""

        def step(loss: Loss, z: Tensor) -> Tensor:
            return ascend(loss, z, threat, start=z, steps=1, step_size=threat.radius)

        return _in_pieces(model, x, labels, step)


@final
@dataclass(frozen=True, kw_only=True)
class PGD(Checked):
    """Projected gradient ascent on the cross-entropy from random starts; an image that gives in is done.

    Attributes:
        steps: Gradient steps of each restart.
        restarts: Number of starts; the second one and those after it attack what is left.
        reach: Step size times steps, in radii: 2.5 lets a run cross the ball.

    References:
        Madry, Makelov, Schmidt, Tsipras and Vladu, "Towards Deep Learning Models Resistant to Adversarial Attacks",
        ICLR 2018, arXiv:1706.06083.

    Cost: at most steps x restarts forwards and backwards of the network.
    """

    steps: PositiveInt = 50
    restarts: PositiveInt = 5
    reach: PositiveFloat = 2.5

    @property
    def name(self) -> str:
        """Steps and restarts, such as PGD-50 x 5."""
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
    found = []
    for part in pieces(len(x), micro_batch(model, x.device, len(x))):
        truth = labels[part]
        found.append(attack(lambda z, y=truth: cross_entropy(model(z), y, reduction="sum"), x[part]))  # type: ignore[misc]
    return torch.cat(found) if found else x


def surviving(
    attack: Attack, model: UnitModel, x: Tensor, labels: Tensor, threat: Threat, rng: torch.Generator
) -> Tensor:
    """Return whether a network gets each image right before an attack and after it, (B,) bool; bounds are asserted.

    Args:
        attack: Attack on the images that the network gets right.
        model: Network under attack.
        x: Images (B, C, H, W) in the unit range.
        labels: Classes, (B,) int64.
        threat: Norm and radius.
        rng: Generator of the attack.

    Raises:
        BrokenAttackError: If an attacked image leaves the ball or the unit range.
    """
    kept = model.correct(x, labels)
    right = kept.nonzero().flatten()
    if len(right):
        attacked = threat.check(attack(model, x[right], labels[right], threat, rng), x[right])
        kept[right] = model.correct(attacked, labels[right])
    return kept
