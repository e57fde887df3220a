"""What attacks left of networks, as numbers, warnings and a table."""

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
"""At which every image can become grey, or nearly so: nothing may be left."""


class Outcome(NamedTuple):
    """What one attack left of one network.

    Attributes:
        attack: Name of the attack.
        radius: Radius in the unit range.
        network: Position of the network, from 0.
        kept: Whether each image is right before and after the attack.
        seconds: Seconds of the attack.
    """

    attack: str
    radius: float
    network: int
    kept: tuple[bool, ...]
    seconds: float

    @property
    def accuracy(self) -> float:
        """Share of the images that the attack left."""
        return sum(self.kept) / len(self.kept)


@dataclass(frozen=True)
class Robustness:
    """Clean and robust accuracies of networks that trained on one set.

    Attributes:
        name: Name in tables.
        norm: Norm of the attacks.
        clean: Accuracy of each network on the images that were attacked.
        outcomes: Outcomes of every attack, radius and network; those of the checks as well.
        images: Number of test images.
        chance: Accuracy of guessing.
        margin: Share of the images by which a check may fail before it is told.
        seconds: Seconds of all attacks.
    """

    name: str
    norm: Norm
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
        found = []
        for network in range(len(self.clean)):
            seen = [o.kept for o in self.outcomes if o.network == network and o.radius <= radius]
            kept = [all(row) for row in itertools.zip_longest(*seen, fillvalue=True)]
            found.append(sum(kept) / len(kept) if kept else float("nan"))
        return found

    @cached_property
    def warnings(self) -> list[str]:
        """What makes these figures doubtful; empty where every check holds."""
        clean, large = statistics.mean(self.clean), LARGE_RADIUS[self.norm]
        found = []
        if clean < 2 * self.chance:
            found.append(
                f"clean accuracy {clean:.1%} is near chance ({self.chance:.1%}): robustness means nothing here"
            )
        found += [*self._masked(), *self._not_falling(), *self._steps_help()]
        # A radius at which every image can become grey leaves nothing.
        for attack in self.attacks:
            left = self._mean(attack, large)
            if attack.startswith(("FGSM", "PGD")) and left is not None and left > self.margin:
                found.append(
                    f"{attack} leaves {left:.1%} at a radius of {large:g}, where nothing should be left: masking"
                )
        return found

    def _mean(self, attack: str, radius: float) -> float | None:
        found = self.accuracies(attack, radius)
        return statistics.mean(found) if found else None

    def _masked(self) -> Iterator[str]:
        """Tell where a gradient attack is weaker than random search: it does not see the gradient."""
        square = {(o.radius, o.network): o.kept for o in reversed(self.outcomes) if o.attack.startswith("Square")}
        pgd = [o for o in self.outcomes if o.attack.startswith("PGD") and o.radius in self.radii]
        for o in sorted(pgd, key=lambda o: (self.attacks.index(o.attack), o.radius, o.network)):
            theirs = square.get((o.radius, o.network), ())
            n = min(len(o.kept), len(theirs))
            gap = (sum(o.kept[:n]) - sum(theirs[:n])) / max(n, 1)
            if gap > self.margin:
                yield (
                    f"network {o.network}: {o.attack} leaves {gap:.1%} more than Square at radius {o.radius:g}: masking"
                )

    def _not_falling(self) -> Iterator[str]:
        """Tell where a larger radius, which holds the smaller one, leaves more."""
        for attack in self.attacks:
            known = [(r, a) for r in self.radii if (a := self._mean(attack, r)) is not None]
            for (small, before), (large, after) in itertools.pairwise(known):
                if after > before + self.margin and attack != "FGSM":
                    yield f"{attack} leaves more at radius {large:g} than at {small:g}: a weak attack"

    def _steps_help(self) -> Iterator[str]:
        """Tell where more steps leave more."""
        steps = {a: int(a.split("-")[1].split(" ")[0]) for a in self.attacks if a.startswith("PGD-")}
        for radius, (few, many) in itertools.product(self.radii[-1:], itertools.permutations(steps, 2)):
            weak, strong = self._mean(few, radius), self._mean(many, radius)
            if steps[few] < steps[many] and weak is not None and strong is not None and strong > weak + self.margin:
                yield f"{many} leaves more than {few} at radius {radius:g}: more steps help the defender"

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
        reports: Reports under the same norm and radii.
    """
    radii = sorted({radius for report in reports for radius in report.radii})
    head = ["set", "clean", *(f"{reports[0].norm} {radius:g}" for radius in radii), "warnings"]
    rows = []
    for report in reports:
        shares = [mean_text(values, scale=100) for values in (report.clean, *map(report.worst, radii))]
        rows.append([report.name, *shares, str(len(report.warnings))])
    return markdown_table(head, rows)
