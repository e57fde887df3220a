"""The facts of a linear probe on a frozen backbone, as far as a training protocol states them."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from ddsdk.foundation import CheckedDataclass, PositiveFloat, PositiveInt, require

if TYPE_CHECKING:
    from ddsdk.networks import Backbone


@final
@dataclass(frozen=True, kw_only=True)
class Probe(CheckedDataclass):
    """A linear probe: which backbone, its preprocessing, the standardisation of its features, and the weight decay.

    The probe minimises the mean cross-entropy of W z + b plus `decay` ||W||^2 / 2 over standardised features
    z = (f - `shift`) / `scale`. The problem is convex, so a probe has no randomness. The statistics of the features are
    those of real training images: a few synthetic images have no useful ones.

    Attributes:
        sha256: SHA-256 of the backbone's weights, see `ddsdk.networks.Backbone`.
        features: Number of features F.
        mean: Mean of each channel in the unit range of the backbone's own normalisation.
        std: Standard deviation of each channel in the unit range of that normalisation.
        side: Input resolution of the backbone in pixels; None keeps the size of the images.
        shift: Mean of each of the F features over real training images.
        scale: Standard deviation > 0 of each of the F features over real training images.
        decay: Weight decay > 0 of the probe, without which the loss may have no minimum.

    Examples:
        >>> from ddsdk.training import Probe
        >>> facts = {"sha256": 64 * "0", "features": 2, "mean": (0.5,), "std": (0.5,)}
        >>> Probe(**facts, shift=(0.0, 0.1), scale=(1.0, 2.0)).decay
        0.001
    """

    sha256: str
    features: PositiveInt
    mean: tuple[float, ...]
    std: tuple[float, ...]
    side: PositiveInt | None = None
    shift: tuple[float, ...]
    scale: tuple[float, ...]
    decay: PositiveFloat = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        digits = re.fullmatch("[0-9a-f]{64}", self.sha256) is not None
        require(digits, "sha256", "be 64 hexadecimal digits", self.sha256)
        channels = len(self.mean) == len(self.std) and len(self.mean) in (1, 3)
        require(channels, "mean and std", "have one number for each of 1 or 3 channels", (self.mean, self.std))
        for name in ("shift", "scale"):
            values = getattr(self, name)
            require(len(values) == self.features, name, f"have {self.features} numbers", len(values))
        finite = all(math.isfinite(v) for v in (*self.mean, *self.std, *self.shift, *self.scale))
        require(finite, "statistics of the probe", "be finite", "others")
        positive = all(v > 0 for v in (*self.std, *self.scale))
        require(positive, "std and scale", "be positive", "others")

    def fits(self, backbone: Backbone) -> bool:
        """Return whether a backbone has the weights and the preprocessing of this probe."""
        return self.sha256 == backbone.sha256 and backbone.preprocessing == {
            "mean": self.mean,
            "std": self.std,
            "side": self.side,
        }
