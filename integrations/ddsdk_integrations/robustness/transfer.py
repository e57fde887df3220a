"""Transfer: images attacked on one network, shown to another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ddsdk.experiments import markdown_table
from ddsdk.foundation import derive, require, root
from ddsdk_integrations.robustness.attacks import PGD, Attack
from ddsdk_integrations.robustness.threat import Threat
from ddsdk_integrations.robustness.unit_model import UnitModel


@dataclass(frozen=True)
class Transfer:
    """What attacks on one network leave of another.

    Attributes:
        names: Of the networks.
        accuracy: Row: attacked; column: tested.
        clean: Of each network.
        threat: How far the attack went.
    """

    names: tuple[str, ...]
    accuracy: tuple[tuple[float, ...], ...]
    clean: tuple[float, ...]
    threat: Threat

    def table(self) -> str:
        """Return a markdown table, in %."""
        head = [f"attacked ({self.threat.label})", *self.names]
        clean = ["none", *(f"{100 * value:.1f}" for value in self.clean)]
        body = [
            [name, *(f"{100 * value:.1f}" for value in row)]
            for name, row in zip(self.names, self.accuracy, strict=True)
        ]
        return markdown_table(head, [clean, *body])


def transfer(
    models: Mapping[str, UnitModel],
    x: Tensor,
    labels: Tensor,
    threat: Threat,
    *,
    seed: int | torch.Generator = 0,
    attack: Attack = PGD(steps=50, restarts=1),  # noqa: B008 - frozen
) -> Transfer:
    """Attack every network and test all networks on the attacked images.

    Args:
        models: Networks by name, such as of several architectures.
        x: Images, (B, C, H, W) in the unit range, such as those of `RobustnessJudge.test_images`.
        labels: Classes of the images, (B,) int64.
        threat: Norm and radius of the attack.
        seed: Root of the attack's randomness: an integer, or a generator, which is not advanced.
        attack: Attack on all images, those that its network gets wrong too.

    Raises:
        BrokenAttackError: If an attack leaves its bounds.
    """
    require(len(models) > 0, "models", "hold at least one network", len(models))
    rng, rows = root(seed), []
    for name, source in models.items():
        attacked = threat.check(attack(source, x, labels, threat, derive(rng, "transfer", name)), x)
        rows.append(tuple(_accuracy(model, attacked, labels) for model in models.values()))
    clean = tuple(_accuracy(model, x, labels) for model in models.values())
    return Transfer(tuple(models), tuple(rows), clean, threat)


def _accuracy(model: UnitModel, x: Tensor, labels: Tensor) -> float:
    return float(model.correct(x, labels).float().mean())
