"""Transfer: images attacked on one network, shown to another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ddsdk.experiments import markdown_table
from ddsdk.foundation import derive, require
from ddsdk_integrations.robustness.attacks import PGD, Attack
from ddsdk_integrations.robustness.threat import Threat
from ddsdk_integrations.robustness.unit_model import UnitModel

__all__ = ["Transfer", "transfer"]


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
    rng: torch.Generator,
    attack: Attack = PGD(steps=50, restarts=1),  # noqa: B008 - frozen
) -> Transfer:
    """Attack every network and test all networks on the attacked images.

    Args:
        models: By name, such as of several architectures.
        x: (B, C, H, W) in the unit range; `RobustnessJudge.test_images` gives some.
        labels: (B,) int64.
        threat: How far the attack goes.
        rng: For the attack.
        attack: It sees all images, those that its network gets wrong too.

    Raises:
        BrokenAttackError: If an attack leaves its bounds.
    """
    require(len(models) > 0, "models", "hold at least one network", len(models))
    rows = []
    for name, source in models.items():
        attacked = threat.check(attack(source, x, labels, threat, derive(rng, "transfer", name)), x)
        rows.append(tuple(_accuracy(model, attacked, labels) for model in models.values()))
    clean = tuple(_accuracy(model, x, labels) for model in models.values())
    return Transfer(tuple(models), tuple(rows), clean, threat)


def _accuracy(model: UnitModel, x: Tensor, labels: Tensor) -> float:
    return float(model.correct(x, labels).float().mean())
