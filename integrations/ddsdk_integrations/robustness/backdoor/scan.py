"""Look for a back door in a distilled set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

import ddsdk as dd
from ddsdk.foundation import Checked, PositiveFloat, derive, require, require_count, root
from ddsdk.judging import trained_networks
from ddsdk_integrations.robustness.backdoor.inversion import Inversion, invert_triggers, outlier_indices
from ddsdk_integrations.robustness.backdoor.signatures import pasted_regions, spectral_signatures

LIMITS = (
    "A scan that finds nothing proves nothing: it knows small patches at one place, and triggers that are spread over "
    "an image, moved about or made against it pass. Indices compare classes with one another, so with few classes, or "
    "with several targets, they say little. A natural class may be flagged: look at the masks. Detection rates hold "
    "for the data and the sizes that they were measured on."
)

TESTS = ("inversion", "pasting", "spectrum")
"""Names of the three tests."""


@final
@dataclass(frozen=True, kw_only=True)
class Thresholds(Checked):
    """Values above which a class is suspicious.

    Attributes:
        inversion: Deviations by which the class's mask is smaller than the median one.
        pasting: Net share of images of other classes that a square of the set turns into the class.
        spectrum: Deviations by which the leading direction of its features stands out.
    """

    inversion: PositiveFloat = 3.0
    pasting: PositiveFloat = 0.3
    spectrum: PositiveFloat = 3.0


@final
@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Result of a scan for one class.

    Attributes:
        label: Class id.
        name: Name of the class.
        mask: Size of the smallest trigger that inversion found, in pixels; all of the image where there is none.
        inversion: Deviations, see `Thresholds`.
        pasting: Net share, see `Thresholds`.
        spectrum: Deviations, see `Thresholds`; 0 where the class has fewer than 3 images.
        reasons: Names of the tests that exceed their threshold.
    """

    label: int
    name: str
    mask: float
    inversion: float
    pasting: float
    spectrum: float
    reasons: tuple[str, ...]

    @property
    def suspicious(self) -> bool:
        """Whether a test exceeds its threshold."""
        return bool(self.reasons)


@final
@dataclass(frozen=True, eq=False, kw_only=True)
class Scan:
    """Result of a scan.

    Attributes:
        verdicts: Verdict on each class.
        masks: Smallest masks of inversion, (K, 1, H, W).
        patterns: Colours of the masks in the unit range, (K, C, H, W).
        thresholds: Thresholds that were applied.
        networks: Number of networks that were trained on the set.
        images: Number and source of the images on which triggers were tried.
    """

    verdicts: tuple[Verdict, ...]
    masks: Tensor
    patterns: Tensor
    thresholds: Thresholds
    networks: int
    images: str

    @property
    def suspicious(self) -> tuple[Verdict, ...]:
        """The verdicts of suspicious classes."""
        return tuple(one for one in self.verdicts if one.suspicious)

    def highest(self, test: str) -> Verdict:
        """Return the verdict of the class that looks worst to one of `TESTS`."""
        require(test in TESTS, "test", f"be one of {', '.join(TESTS)}", test)
        return max(self.verdicts, key=lambda one: float(getattr(one, test)))

    def score(self, test: str) -> float:
        """Return the largest value of one of `TESTS` over the classes."""
        return float(getattr(self.highest(test), test))

    def __str__(self) -> str:
        """Return the report."""
        named = ", ".join(f"{one.name} ({', '.join(one.reasons)})" for one in self.suspicious)
        above = self.thresholds
        lines = [
            f"suspicious classes: {named or 'none'}",
            f"{self.networks} networks trained on the set, triggers tried on {self.images}",
            f"{'class':>16} {'mask, pixels':>13} {'inversion':>10} {'pasting':>8} {'spectrum':>9}",
            *(_line(one) for one in self.verdicts),
            f"{'suspicious above':>16} {'':>13} {above.inversion:10.1f} {above.pasting:8.2f} {above.spectrum:9.1f}",
            LIMITS,
        ]
        return "\n".join(lines)


def _line(one: Verdict) -> str:
    mark = " suspicious" if one.suspicious else ""
    numbers = f"{one.mask:13.1f} {one.inversion:10.1f} {one.pasting:8.2f} {one.spectrum:9.1f}"
    return f"{one.name[:16]:>16} {numbers}{mark}"


def scan(
    distilled: dd.Distilled,
    *,
    seed: int | torch.Generator = 0,
    clean: dd.RealData | None = None,
    evaluation: dd.Evaluation | None = None,
    networks: int | Sequence[nn.Module] = 3,
    images: int = 200,
    size: int | None = None,
    inversion: Inversion | None = None,
    thresholds: Thresholds | None = None,
) -> Scan:
    """Train networks on a set, and look for a class into which a small patch turns everything else.

    Three tests. Inversion searches for the smallest trigger of each class (Neural Cleanse). Pasting takes the squares
    of the set's own images that matter most to their class, and tries them on images of other classes. Spectrum looks
    for a leading direction among the features of a class.

    Args:
        distilled: Set that is scanned.
        seed: Root of networks, choices and starts: an integer, or a generator, which is not advanced.
        clean: Trusted real images of the same classes to try triggers on. None takes the set's own, which say less.
        evaluation: Protocol of the networks' training; None takes that of the set.
        networks: Number of networks that train on the set, or networks that were trained on it, see
            `ddsdk.judging.trained_networks`.
        images: Largest number of trusted images.
        size: Side of pasted squares in pixels; None takes a quarter of the image's smaller side, 2 pixels at least.
        inversion: Settings of the inversion of triggers; None takes the defaults.
        thresholds: Values above which a class is suspicious; None takes the defaults.

    Returns:
        A verdict for each class; `str` makes a report of it, which says what a scan cannot see.

    Raises:
        ValueError: If the set has fewer than 3 classes, or `clean` does not fit it.
    """
    rng = root(seed)
    require_count("images", images)
    require(distilled.num_classes >= 3, "distilled", "have 3 classes or more", distilled.num_classes)
    own = (distilled.unit_images(), distilled.owner)
    onto, whose = own, f"{len(own[0])} images of the set itself"
    if clean is not None:
        onto = _trusted(distilled, clean, images, derive(rng, "images"))
        whose = f"{len(onto[0])} trusted images"
    nets = (
        trained_networks(distilled, evaluation, networks, derive(rng, "networks"))
        if isinstance(networks, int)
        else list(networks)
    )
    side = max(2, min(distilled.images.shape[2:]) // 4) if size is None else size
    inversion, thresholds, space = inversion or Inversion(), thresholds or Thresholds(), distilled.preprocess
    inverted = invert_triggers(nets, *onto, space, settings=inversion, rng=derive(rng, "inversion"))
    pasted = pasted_regions(nets, own, onto, space, distilled.num_classes, size=side)
    signatures = spectral_signatures(nets, distilled.images, own[1], distilled.num_classes)
    found = {"inversion": inverted.indices, "pasting": pasted.shares, "spectrum": outlier_indices(signatures.shares)}
    verdicts = []
    for c, name in enumerate(distilled.class_names):
        values = {test: float(row[c]) for test, row in found.items()}
        reasons = tuple(test for test in TESTS if values[test] > getattr(thresholds, test))
        verdicts.append(Verdict(label=c, name=name, mask=float(inverted.sizes[c]), reasons=reasons, **values))
    return Scan(
        verdicts=tuple(verdicts),
        masks=inverted.masks,
        patterns=inverted.patterns,
        thresholds=thresholds,
        networks=len(nets),
        images=whose,
    )


def _trusted(distilled: dd.Distilled, clean: dd.RealData, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    shape = tuple(distilled.images.shape[1:])
    require(clean.image_shape == shape, "clean", f"have images of shape {shape}", clean.image_shape)
    names = distilled.class_names
    require(clean.class_names == names, "clean", f"have the classes {names}", clean.class_names)
    picked = torch.randperm(len(clean), generator=rng)[:count]
    device = distilled.images.device
    return clean.unit_images(picked).to(device), clean.labels[picked.to(clean.device)].to(device)
