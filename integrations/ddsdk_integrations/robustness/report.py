"""Results of attacks: robust accuracies, warnings of unreliable figures, and a table."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from ddsdk.experiments import markdown_table, mean_text
from ddsdk_integrations.robustness.threat import Norm

LARGE_RADIUS: dict[Norm, float] = {"linf": 0.5, "l2": 20.0}
"""Radius at which an attack can turn every image nearly grey: robust accuracy must be zero."""


class AttackOutcome(NamedTuple):
    """Result of one attack on one network.

    Attributes:
        attack: Name of the attack.
        radius: Radius of the perturbation, in the unit range.
        network: Position of the network in the list of networks, from 0.
        kept: Whether each image is classified correctly before and after the attack, one bool for each image.
        seconds: Running time of the attack in seconds.
    """

    attack: str
    radius: float
    network: int
    kept: tuple[bool, ...]
    seconds: float

    @property
    def accuracy(self) -> float:
        """Robust accuracy: share of the images classified correctly before and after the attack."""
        return sum(self.kept) / len(self.kept)


@dataclass(frozen=True)
class Robustness:
    """Clean and robust accuracies of networks that were trained on one set.

    Attributes:
        name: Name of the set in tables.
        norm: Norm of the attacks, ``"linf"`` or ``"l2"``.
        clean: Clean accuracy of each network on the attacked images, in [0, 1].
        outcomes: Results of every attack, radius and network, including those of the checks.
        images: Number of test images.
        chance: Accuracy of random guessing, 1 / K.
        margin: Share of the images by which a check may fail before it causes a warning.
        seconds: Running time of all attacks in seconds.
    """

    name: str
    norm: Norm
    clean: tuple[float, ...]
    outcomes: tuple[AttackOutcome, ...]
    images: int
    chance: float
    margin: float
    seconds: float

    @cached_property
    def radii(self) -> list[float]:
        """Radii of the attacks in rising order, without the large radius of the masking check."""
        return sorted({o.radius for o in self.outcomes} - {LARGE_RADIUS[self.norm]})

    @cached_property
    def attacks(self) -> list[str]:
        """Names of the attacks in the order of the trials."""
        return list(dict.fromkeys(o.attack for o in self.outcomes))

    def accuracies(self, attack: str, radius: float) -> list[float]:
        """Return the robust accuracy of each network under an attack; empty if it was not run at this radius."""
        return [o.accuracy for o in self.outcomes if (o.attack, o.radius) == (attack, radius)]

    def worst(self, radius: float) -> list[float]:
        """Return for each network the share of images that are correct under all attacks up to this radius.

        An attack on a part of the images counts for these images only.
        """
        accuracies = []
        for network in range(len(self.clean)):
            survived = [o.kept for o in self.outcomes if o.network == network and o.radius <= radius]
            robust = [all(image) for image in itertools.zip_longest(*survived, fillvalue=True)]
            accuracies.append(sum(robust) / len(robust) if robust else float("nan"))
        return accuracies

    @cached_property
    def warnings(self) -> list[str]:
        """Reasons to doubt these figures; empty if every check passes."""
        clean, large = statistics.mean(self.clean), LARGE_RADIUS[self.norm]
        warnings = []
        if clean < 2 * self.chance:
            warnings.append(
                f"clean accuracy {clean:.1%} is near chance ({self.chance:.1%}): robust accuracy is meaningless"
            )
        warnings += [*self._masked(), *self._not_falling(), *self._steps_help()]
        for attack in self.attacks:
            robust = self._mean(attack, large)
            if attack.startswith(("FGSM", "PGD")) and robust is not None and robust > self.margin:
                warnings.append(
                    f"{attack} leaves {robust:.1%} at a radius of {large:g}, where nothing should be left: masking"
                )
        return warnings

    def _mean(self, attack: str, radius: float) -> float | None:
        accuracies = self.accuracies(attack, radius)
        return statistics.mean(accuracies) if accuracies else None

    def _masked(self) -> Iterator[str]:
        """Yield a warning where PGD is weaker than random search, a sign of gradient masking."""
        square = {(o.radius, o.network): o.kept for o in reversed(self.outcomes) if o.attack.startswith("Square")}
        pgd = [o for o in self.outcomes if o.attack.startswith("PGD") and o.radius in self.radii]
        for o in sorted(pgd, key=lambda o: (self.attacks.index(o.attack), o.radius, o.network)):
            by_square = square.get((o.radius, o.network), ())
            n = min(len(o.kept), len(by_square))
            gap = (sum(o.kept[:n]) - sum(by_square[:n])) / max(n, 1)
            if gap > self.margin:
                yield (
                    f"network {o.network}: {o.attack} leaves {gap:.1%} more than Square at radius {o.radius:g}: masking"
                )

    def _not_falling(self) -> Iterator[str]:
        """Yield a warning where accuracy is higher at a larger radius, whose ball contains the smaller one."""
        for attack in self.attacks:
            known = [(r, a) for r in self.radii if (a := self._mean(attack, r)) is not None]
            for (small, before), (large, after) in itertools.pairwise(known):
                # FGSM takes one step as long as the radius, and may overshoot at a large one.
                if after > before + self.margin and attack != "FGSM":
                    yield f"{attack} leaves more at radius {large:g} than at {small:g}: a weak attack"

    def _steps_help(self) -> Iterator[str]:
        """Yield a warning where PGD with more steps gives a higher accuracy at the largest radius."""
        steps = {a: int(a.split("-")[1].split(" ")[0]) for a in self.attacks if a.startswith("PGD-")}
        for radius, (few, many) in itertools.product(self.radii[-1:], itertools.permutations(steps, 2)):
            with_few, with_many = self._mean(few, radius), self._mean(many, radius)
            if steps[few] >= steps[many] or with_few is None or with_many is None:
                continue
            if with_many > with_few + self.margin:
                yield f"{many} leaves more than {few} at radius {radius:g}: more steps help the defender"

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as JSON values, without results of single images."""
        runs = dict.fromkeys((o.attack, o.radius) for o in self.outcomes)
        return {
            "name": self.name,
            "norm": self.norm,
            "clean": list(self.clean),
            "attacks": [[a, r, self.accuracies(a, r)] for a, r in runs],
            "worst": [[r, self.worst(r)] for r in self.radii],
            "images": self.images,
            "warnings": self.warnings,
            "seconds": round(self.seconds, 3),
        }


def robustness_table(reports: Sequence[Robustness]) -> str:
    """Return a markdown table: one row for each set, with clean accuracy and worst-case accuracy at each radius, in %.

    Args:
        reports: Results with equal norm and radii, one for each set.

    Examples:
        >>> from ddsdk_integrations.robustness import AttackOutcome, Robustness, robustness_table
        >>> outcome = AttackOutcome("PGD-50", radius=0.1, network=0, kept=(True, False), seconds=1.0)
        >>> report = Robustness("dm", "linf", (1.0,), (outcome,), images=2, chance=0.1, margin=0.01, seconds=1.0)
        >>> print(robustness_table([report]).splitlines()[2])
        | dm | 100.0 | 50.0 | 0 |
    """
    radii = sorted({radius for report in reports for radius in report.radii})
    head = ["set", "clean", *(f"{reports[0].norm} {radius:g}" for radius in radii), "warnings"]
    rows = []
    for report in reports:
        shares = [mean_text(values, scale=100) for values in (report.clean, *map(report.worst, radii))]
        rows.append([report.name, *shares, str(len(report.warnings))])
    return markdown_table(head, rows)
