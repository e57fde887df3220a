"""What attacks left of networks, as numbers, warnings and a table."""

from __future__ import annotations

import itertools
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from ddsdk.experiments import markdown_table, percent

LARGE_RADIUS = {"linf": 0.5, "l2": 20.0}
"""At which every image can become grey, or nearly so: nothing may be left."""
_GRADIENT = re.compile(r"FGSM|PGD")


class Outcome(NamedTuple):
    """What one attack left of one network.

    Attributes:
        attack: Its name.
        radius: In the unit range.
        network: From 0.
        kept: For each image whether it is right before and after the attack.
        seconds: That it took.
    """

    attack: str
    radius: float
    network: int
    kept: tuple[bool, ...]
    seconds: float

    @property
    def accuracy(self) -> float:
        """Share of the images that it left."""
        return sum(self.kept) / len(self.kept)


@dataclass(frozen=True)
class Robustness:
    """Clean and robust accuracies of networks that trained on one set.

    Attributes:
        name: For tables.
        norm: Of the attacks.
        clean: Accuracy of each network on the images that were attacked.
        outcomes: Of every attack, radius and network; those of the checks as well.
        images: Test images.
        chance: Accuracy of guessing.
        margin: By how much a check may fail before it is told.
        seconds: That the attacks took.
    """

    name: str
    norm: str
    clean: tuple[float, ...]
    outcomes: tuple[Outcome, ...]
    images: int
    chance: float
    margin: float
    seconds: float

    @cached_property
    def radii(self) -> list[float]:
        """Radii that were tried, rising, without the large one of the check."""
        return sorted({o.radius for o in self.outcomes} - {LARGE_RADIUS[self.norm]})

    @cached_property
    def attacks(self) -> list[str]:
        """Names in the order of the trials."""
        return list(dict.fromkeys(o.attack for o in self.outcomes))

    def accuracies(self, attack: str, radius: float) -> list[float]:
        """Return the accuracy that each network keeps under an attack; empty where it was not tried."""
        return [o.accuracy for o in self.outcomes if (o.attack, o.radius) == (attack, radius)]

    def worst(self, radius: float) -> list[float]:
        """Return for each network the share of images that no attack of this radius or a smaller one turned.

        An attack that saw some of the images only counts for these.
        """
        return [self._worst(network, radius) for network in range(len(self.clean))]

    def _worst(self, network: int, radius: float) -> float:
        seen = [o for o in self.outcomes if o.network == network and o.radius <= radius]
        longest = max((len(o.kept) for o in seen), default=0)
        kept = [all(o.kept[i] for o in seen if i < len(o.kept)) for i in range(longest)]
        return sum(kept) / len(kept) if kept else float("nan")

    @cached_property
    def warnings(self) -> list[str]:
        """What makes these figures doubtful; empty where every check holds."""
        return [*self._near_chance(), *self._masked(), *self._not_falling(), *self._steps_help(), *self._large()]

    def _mean(self, attack: str, radius: float) -> float | None:
        found = self.accuracies(attack, radius)
        return statistics.mean(found) if found else None

    def _near_chance(self) -> list[str]:
        clean = statistics.mean(self.clean)
        if clean >= 2 * self.chance:
            return []
        return [f"clean accuracy {clean:.1%} is near chance ({self.chance:.1%}): robustness means nothing here"]

    def _masked(self) -> list[str]:
        """A gradient attack that is weaker than random search does not see the gradient."""
        found = []
        for attack, radius in itertools.product(self.attacks, self.radii):
            if not attack.startswith("PGD"):
                continue
            for network in range(len(self.clean)):
                gap = self._gap_to_square(attack, radius, network)
                if gap is not None and gap > self.margin:
                    found.append(
                        f"network {network}: {attack} leaves {gap:.1%} more than Square at radius {radius:g}: masking"
                    )
        return found

    def _gap_to_square(self, attack: str, radius: float, network: int) -> float | None:
        """Return by how much the accuracy under an attack exceeds Square's on the images that both saw."""
        here = [o for o in self.outcomes if (o.radius, o.network) == (radius, network)]
        mine = next((o.kept for o in here if o.attack == attack), ())
        theirs = next((o.kept for o in here if o.attack.startswith("Square")), ())
        n = min(len(mine), len(theirs))
        if not n:
            return None
        return (sum(mine[:n]) - sum(theirs[:n])) / n

    def _not_falling(self) -> list[str]:
        """A larger radius holds the smaller one."""
        found = []
        for attack in self.attacks:
            known = [(r, a) for r in self.radii if (a := self._mean(attack, r)) is not None]
            for (small, before), (large, after) in itertools.pairwise(known):
                if after > before + self.margin and attack != "FGSM":
                    found.append(f"{attack} leaves more at radius {large:g} than at {small:g}: a weak attack")
        return found

    def _steps_help(self) -> list[str]:
        """More steps never help the defender."""
        if not self.radii:
            return []
        steps = {a: int(a.split("-")[1].split(" ")[0]) for a in self.attacks if a.startswith("PGD-")}
        radius, found = self.radii[-1], []
        for few, many in itertools.permutations(steps, 2):
            weak, strong = self._mean(few, radius), self._mean(many, radius)
            if steps[few] < steps[many] and weak is not None and strong is not None and strong > weak + self.margin:
                found.append(f"{many} leaves more than {few} at radius {radius:g}: more steps help the defender")
        return found

    def _large(self) -> list[str]:
        """A radius at which every image can become grey leaves nothing."""
        radius = LARGE_RADIUS[self.norm]
        return [
            f"{attack} leaves {left:.1%} at a radius of {radius:g}, where nothing should be left: masking"
            for attack in self.attacks
            if _GRADIENT.match(attack) and (left := self._mean(attack, radius) or 0.0) > self.margin
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as JSON values, without the single images."""
        tried = dict.fromkeys((o.attack, o.radius) for o in self.outcomes)
        return {
            "name": self.name,
            "norm": self.norm,
            "clean": list(self.clean),
            "attacks": [[a, r, self.accuracies(a, r)] for a, r in tried],
            "worst": [[r, self.worst(r)] for r in self.radii],
            "images": self.images,
            "warnings": self.warnings,
            "seconds": round(self.seconds, 3),
        }


def robustness_table(reports: Sequence[Robustness]) -> str:
    """Return a markdown table: a row for each set, clean and worst-of-attacks accuracy in % at each radius.

    Args:
        reports: Under the same norm and radii.
    """
    radii = sorted({radius for report in reports for radius in report.radii})
    head = ["set", "clean", *(f"{reports[0].norm} {radius:g}" for radius in radii), "warnings"]
    rows = []
    for report in reports:
        worst = [percent(report.worst(radius)) for radius in radii]
        rows.append([report.name, percent(report.clean), *worst, str(len(report.warnings))])
    return markdown_table(head, rows)
