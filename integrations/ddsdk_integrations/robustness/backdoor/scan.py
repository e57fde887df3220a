"""Scan of a distilled set for backdoors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

import ddsdk as dd
from ddsdk.foundation import CheckedDataclass, PositiveFloat, as_generator, derive, require, require_count
from ddsdk.judging import trained_networks
from ddsdk_integrations.robustness.backdoor.inversion import InversionSettings, anomaly_indices, invert_triggers
from ddsdk_integrations.robustness.backdoor.signatures import pasted_regions, spectral_signatures

LIMITS = (
    "A scan that finds nothing proves nothing. It detects small patches at one position; it misses triggers that are "
    "spread over an image, vary in position, or are made against the scan. The indices compare classes with one "
    "another, so they are unreliable with few classes or several target classes. A class without a backdoor may be "
    "flagged: inspect its mask. Detection rates hold for the data and sizes on which they were measured."
)

TESTS = ("inversion", "pasting", "spectrum")
"""Names of the three tests of a scan."""


@final
@dataclass(frozen=True, kw_only=True)
class Thresholds(CheckedDataclass):
    """Thresholds of the tests: a class is suspicious if one of its values is larger.

    Attributes:
        inversion: Anomaly index of the class's mask size, below the median, in units of 1.4826 MAD.
        pasting: Net share of images of other classes that a square of the set turns into the class, in [0, 1].
        spectrum: Anomaly index of the variance share of the class's first principal direction, in units of 1.4826 MAD.
    """

    inversion: PositiveFloat = 3.0
    pasting: PositiveFloat = 0.3
    spectrum: PositiveFloat = 3.0


@final
@dataclass(frozen=True, kw_only=True)
class ClassVerdict:
    """Result of a scan for one class.

    Attributes:
        label: Number of the class, from 0.
        name: Name of the class in the report.
        mask: L1 norm of the smallest mask of trigger inversion, in pixels; H * W if no mask reached the goal.
        inversion: Anomaly index of that mask, see `Thresholds`.
        pasting: Net share of turned images, see `Thresholds`.
        spectrum: Anomaly index of the spectral signature, see `Thresholds`; 0 for fewer than 3 images of the class.
        reasons: Names of the tests whose value exceeds the threshold.
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
        """Whether a value exceeds its threshold."""
        return bool(self.reasons)


@final
@dataclass(frozen=True, eq=False, kw_only=True)
class Scan:
    """Result of a scan for backdoors; `str` gives a report with a table.

    Attributes:
        verdicts: Verdict on each class, in the order of the classes.
        masks: Smallest masks of trigger inversion, (K, 1, H, W).
        patterns: Colours of the masks in the unit range, (K, C, H, W).
        thresholds: Thresholds of the verdicts, one for each test.
        networks: Number of networks that were trained on the set.
        images: Number and source of the images on which triggers were tested.
    """

    verdicts: tuple[ClassVerdict, ...]
    masks: Tensor
    patterns: Tensor
    thresholds: Thresholds
    networks: int
    images: str

    @property
    def suspicious(self) -> tuple[ClassVerdict, ...]:
        """Verdicts of the suspicious classes."""
        return tuple(verdict for verdict in self.verdicts if verdict.suspicious)

    def highest(self, test: str) -> ClassVerdict:
        """Return the verdict of the class with the largest value of a test, one of `TESTS`."""
        require(test in TESTS, "test", f"be one of {', '.join(TESTS)}", test)
        return max(self.verdicts, key=lambda verdict: float(getattr(verdict, test)))

    def score(self, test: str) -> float:
        """Return the largest value of a test, one of `TESTS`, over all classes."""
        return float(getattr(self.highest(test), test))

    def __str__(self) -> str:
        """Return the report: suspicious classes, a table of all classes, and the limits of a scan."""
        suspicious = ", ".join(f"{verdict.name} ({', '.join(verdict.reasons)})" for verdict in self.suspicious)
        above = self.thresholds
        lines = [
            f"suspicious classes: {suspicious or 'none'}",
            f"{self.networks} networks trained on the set, triggers tested on {self.images}",
            f"{'class':>16} {'mask, pixels':>13} {'inversion':>10} {'pasting':>8} {'spectrum':>9}",
            *(_line(verdict) for verdict in self.verdicts),
            f"{'suspicious above':>16} {'':>13} {above.inversion:10.1f} {above.pasting:8.2f} {above.spectrum:9.1f}",
            LIMITS,
        ]
        return "\n".join(lines)


def _line(verdict: ClassVerdict) -> str:
    mark = " suspicious" if verdict.suspicious else ""
    values = f"{verdict.mask:13.1f} {verdict.inversion:10.1f} {verdict.pasting:8.2f} {verdict.spectrum:9.1f}"
    return f"{verdict.name[:16]:>16} {values}{mark}"


def scan(
    distilled: dd.Distilled,
    *,
    seed: int | torch.Generator = 0,
    clean: dd.RealData | None = None,
    protocol: dd.TrainingProtocol | None = None,
    networks: int | Sequence[nn.Module] = 3,
    images: int = 200,
    size: int | None = None,
    inversion: InversionSettings | None = None,
    thresholds: Thresholds | None = None,
) -> Scan:
    """Return a verdict on each class of a set: whether networks trained on the set contain a backdoor to the class.

    Three tests are made. Inversion searches for the smallest trigger of each class (Neural Cleanse). Pasting cuts out
    the squares of the set's images that matter most to their class, and pastes them on images of other classes.
    Spectrum measures the dominant direction of the features of each class (spectral signatures). A ValueError is raised
    if the set has fewer than 3 classes, or `clean` does not fit the set.

    Args:
        distilled: Distilled set that is scanned.
        seed: Root of networks, image choices and initial masks: an integer, or a generator, which is not advanced.
        clean: Trusted real images of the same classes on which triggers are tested. None takes the images of the set,
            which makes the test less reliable.
        protocol: Protocol of the networks' training; None takes that of the set.
        networks: Number of networks that train on the set, or a sequence of networks that were trained on it, see
            `ddsdk.judging.trained_networks`.
        images: Largest number of trusted images.
        size: Side of the pasted squares in pixels; None takes a quarter of the smaller image side, at least 2 pixels.
        inversion: Settings of trigger inversion; None takes the defaults.
        thresholds: Thresholds of the tests; None takes the defaults.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.robustness.backdoor import InversionSettings, scan
        >>> train, test = ddsdk.load_pair("digits")
        >>> distilled = ddsdk.distill(ddsdk.baselines.Random(ipc=3), train)
        >>> protocol = ddsdk.TrainingProtocol(epochs=2, network_options={"width": 4})
        >>> report = scan(distilled, clean=test, protocol=protocol, networks=1, inversion=InversionSettings(steps=2))
        >>> report.images
        '200 trusted images'
    """
    rng = as_generator(seed)
    require_count("images", images)
    require(distilled.num_classes >= 3, "distilled", "have 3 classes or more", distilled.num_classes)
    set_images = (distilled.unit_images(), distilled.owner)
    onto, source = set_images, f"{len(set_images[0])} images of the set itself"
    if clean is not None:
        onto = _trusted(distilled, clean, images, derive(rng, "images"))
        source = f"{len(onto[0])} trusted images"
    nets = (
        trained_networks(distilled, protocol, networks, derive(rng, "networks"))
        if isinstance(networks, int)
        else list(networks)
    )
    side = max(2, min(distilled.images.shape[2:]) // 4) if size is None else size
    inversion, thresholds, space = inversion or InversionSettings(), thresholds or Thresholds(), distilled.preprocess
    inverted = invert_triggers(nets, *onto, space, settings=inversion, rng=derive(rng, "inversion"))
    pasted = pasted_regions(nets, set_images, onto, space, distilled.num_classes, size=side)
    signatures = spectral_signatures(nets, distilled.images, set_images[1], distilled.num_classes)
    results = {"inversion": inverted.indices, "pasting": pasted.shares, "spectrum": anomaly_indices(signatures.shares)}
    verdicts = []
    for c, name in enumerate(distilled.class_names):
        values = {test: float(by_class[c]) for test, by_class in results.items()}
        reasons = tuple(test for test in TESTS if values[test] > getattr(thresholds, test))
        verdicts.append(ClassVerdict(label=c, name=name, mask=float(inverted.sizes[c]), reasons=reasons, **values))
    return Scan(
        verdicts=tuple(verdicts),
        masks=inverted.masks,
        patterns=inverted.patterns,
        thresholds=thresholds,
        networks=len(nets),
        images=source,
    )


def _trusted(distilled: dd.Distilled, clean: dd.RealData, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    shape = tuple(distilled.images.shape[1:])
    require(clean.image_shape == shape, "clean", f"have images of shape {shape}", clean.image_shape)
    names = distilled.class_names
    require(clean.class_names == names, "clean", f"have the classes {names}", clean.class_names)
    index = torch.randperm(len(clean), generator=rng)[:count]
    device = distilled.images.device
    return clean.unit_images(index).to(device), clean.labels[index.to(clean.device)].to(device)
