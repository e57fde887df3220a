"""Attacks by projected gradient ascent, for the evaluation of networks and for adversarial training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, final

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

import ddsdk as dd
from ddsdk.foundation import CheckedDataclass, PositiveFloat, PositiveInt, derive
from ddsdk.training import micro_batch, pieces
from ddsdk_integrations.robustness.threat import Threat, UnitModel

Loss = Callable[[Tensor], Tensor]


class Attack(Protocol):
    """Attack within a threat model: a frozen dataclass of its settings that maps images to adversarial images."""

    @property
    def name(self) -> str:
        """Name of the attack in tables."""
        ...

    def __call__(self, model: UnitModel, x: Tensor, labels: Tensor, threat: Threat, rng: torch.Generator) -> Tensor:
        """Return attacked images, (B, C, H, W) in the unit range.

        Args:
            model: Network that is attacked, for images in the unit range.
            x: Original images, (B, C, H, W) in the unit range.
            labels: True class of each image, (B,) int64.
            threat: Norm and radius of the perturbation.
            rng: Generator of the attack's random numbers.
        """
        ...


def ascend(loss: Loss, x: Tensor, threat: Threat, *, start: Tensor, steps: int, step_size: float) -> Tensor:
    """Return images after `steps` steps of projected gradient ascent on a loss, (B, C, H, W).

    Each step moves by `step_size` along the steepest direction of the norm and then projects to the ball and to the
    unit range. The gradient is taken at the projected image, because the gradient of clipped pixels through the
    projection is zero.

    Args:
        loss: Function from images (B, C, H, W) to the sum of their losses.
        x: Original images, (B, C, H, W) in the unit range.
        threat: Threat model whose ball around `x` bounds the result.
        start: Initial images, (B, C, H, W), inside the ball.
        steps: Number of gradient steps.
        step_size: Length of a step, in the unit range.

    Examples:
        >>> import torch
        >>> from ddsdk_integrations.robustness import Threat, ascend
        >>> x = torch.full((2, 1, 8, 8), 0.5)
        >>> attacked = ascend(lambda z: z.sum(), x, Threat("linf", 0.1), start=x, steps=3, step_size=0.05)
        >>> round(float(attacked.max()), 2)
        0.6
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
class TrainingPGD(CheckedDataclass):
    """PGD attack for adversarial training, an `ddsdk.training.InputAttack`: few steps from a random start.

    Images are in the value space; step size, radius and clipping apply to pixels of the unit range.

    Attributes:
        preprocess: Map from the unit range to the value space.
        threat: Norm and radius of the perturbation.
        steps: Number of gradient steps; 7 to 10 are usual in training. It is weaker than evaluation attacks on purpose.
        reach: Product of step size and steps, in radii.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.robustness import Threat, TrainingPGD
        >>> real = ddsdk.load("digits")
        >>> adversary = TrainingPGD(preprocess=real.preprocess, threat=Threat("linf", 0.1))
    """

    preprocess: dd.Preprocess
    threat: Threat
    steps: PositiveInt = 7
    reach: PositiveFloat = 2.5

    def __call__(self, loss: Loss, x: Tensor, rng: torch.Generator) -> Tensor:
        """Return attacked images, (B, C, H, W) in the value space, without autograd graph.

        Args:
            loss: Function from value-space images to the sum of their losses.
            x: Original images, (B, C, H, W) in the value space.
            rng: CPU generator of the random start; it advances.
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
    """FGSM: one gradient step of the length of the radius; a sanity check, too weak for an evaluation.

    References:
        Goodfellow, Shlens and Szegedy, "Explaining and Harnessing Adversarial Examples", ICLR 2015, arXiv:1412.6572.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.robustness import FGSM, Threat, UnitModel
        >>> real = ddsdk.load("digits")
        >>> network = ddsdk.network_factory("convnet", real.image_shape, 10, width=4)(ddsdk.generator("weights"))
        >>> model, x, labels = UnitModel(network, real.preprocess), real.unit_images()[:5], real.labels[:5]
        >>> FGSM()(model, x, labels, Threat("linf", 0.1), ddsdk.generator("attack")).shape
        torch.Size([5, 1, 8, 8])
    """

    name = "FGSM"

    def __call__(self, model: UnitModel, x: Tensor, labels: Tensor, threat: Threat, rng: torch.Generator) -> Tensor:  # noqa: ARG002
        """Return attacked images; see `Attack`. The attack is deterministic."""

        def step(loss: Loss, z: Tensor) -> Tensor:
            return ascend(loss, z, threat, start=z, steps=1, step_size=threat.radius)

        return _in_pieces(model, x, labels, step)


@final
@dataclass(frozen=True, kw_only=True)
class PGD(CheckedDataclass):
    """PGD: projected gradient ascent on the cross-entropy from random starts.

    Later restarts attack only the images that are still classified correctly.

    Attributes:
        steps: Number of gradient steps of each restart.
        restarts: Number of random starts, at least 1.
        reach: Product of step size and steps, in radii; with 2.5 the attack can cross the whole ball.

    References:
        Madry, Makelov, Schmidt, Tsipras and Vladu, "Towards Deep Learning Models Resistant to Adversarial Attacks",
        ICLR 2018, arXiv:1706.06083.

    Cost: at most steps x restarts forward and backward passes of the network.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.robustness import PGD, Threat, UnitModel
        >>> real = ddsdk.load("digits")
        >>> network = ddsdk.network_factory("convnet", real.image_shape, 10, width=4)(ddsdk.generator("weights"))
        >>> model, x, labels = UnitModel(network, real.preprocess), real.unit_images()[:5], real.labels[:5]
        >>> PGD(steps=2, restarts=1)(model, x, labels, Threat("linf", 0.1), ddsdk.generator("attack")).shape
        torch.Size([5, 1, 8, 8])
    """

    steps: PositiveInt = 50
    restarts: PositiveInt = 5
    reach: PositiveFloat = 2.5

    @property
    def name(self) -> str:
        """Name with steps and restarts, such as PGD-50 x 5."""
        return f"PGD-{self.steps}" + (f" x {self.restarts}" if self.restarts > 1 else "")

    def __call__(self, model: UnitModel, x: Tensor, labels: Tensor, threat: Threat, rng: torch.Generator) -> Tensor:
        """Return attacked images; see `Attack`."""
        attacked, step_size = x.clone(), self.reach * threat.radius / self.steps
        correct = torch.arange(len(x), device=x.device)
        for i in range(self.restarts):
            if not len(correct):
                break
            key = derive(rng, "restart", i)

            def climb(loss: Loss, z: Tensor, key: torch.Generator = key) -> Tensor:
                start = threat.random_start(z, key)
                return ascend(loss, z, threat, start=start, steps=self.steps, step_size=step_size)

            attacked[correct] = _in_pieces(model, x[correct], labels[correct], climb)
            correct = correct[model.correct(attacked[correct], labels[correct])]
        return attacked


def _in_pieces(model: UnitModel, x: Tensor, labels: Tensor, attack: Callable[[Loss, Tensor], Tensor]) -> Tensor:
    """Return attacked images, computed in micro-batches; the sum of losses keeps gradients of images independent."""
    attacked = []
    for part in pieces(len(x), micro_batch(model, x.device, len(x))):
        truth = labels[part]
        attacked.append(attack(lambda z, y=truth: cross_entropy(model(z), y, reduction="sum"), x[part]))  # type: ignore[misc]
    return torch.cat(attacked) if attacked else x


def surviving(
    attack: Attack, model: UnitModel, x: Tensor, labels: Tensor, threat: Threat, rng: torch.Generator
) -> Tensor:
    """Return whether the network classifies each image correctly before and after an attack, (B,) bool.

    `BrokenAttackError` is raised if an attacked image leaves the ball or the unit range.

    Args:
        attack: Attack on the images that the network classifies correctly.
        model: Network that is attacked, for images in the unit range.
        x: Original images, (B, C, H, W) in the unit range.
        labels: True class of each image, (B,) int64.
        threat: Norm and radius of the perturbation.
        rng: Generator of the attack's random numbers.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.robustness import FGSM, Threat, UnitModel, surviving
        >>> real = ddsdk.load("digits")
        >>> network = ddsdk.network_factory("convnet", real.image_shape, 10, width=4)(ddsdk.generator("weights"))
        >>> model, x, labels = UnitModel(network, real.preprocess), real.unit_images()[:5], real.labels[:5]
        >>> surviving(FGSM(), model, x, labels, Threat("linf", 0.1), ddsdk.generator("attack")).shape
        torch.Size([5])
    """
    correct = model.correct(x, labels)
    indices = correct.nonzero().flatten()
    if len(indices):
        attacked = threat.check(attack(model, x[indices], labels[indices], threat, rng), x[indices])
        correct[indices] = model.correct(attacked, labels[indices])
    return correct
