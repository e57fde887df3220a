"""Value spaces of released sets: normalisations and whitenings in use, and their recognition by statistics."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from ddsdk.data import KNOWN_NORMALISATION, Preprocess, RealData, Whitening, unit_range
from ddsdk.foundation import generator, require

Constants = tuple[tuple[float, ...], tuple[float, ...]]

_CIFAR10: Constants = KNOWN_NORMALISATION["cifar10"]
_CIFAR100: Constants = ((0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762))
_SVHN: Constants = ((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970))
_TRUE_CIFAR10: Constants = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))

_SHARED: dict[str, Constants] = {**KNOWN_NORMALISATION, "usps": ((0.15973,), (0.25727,))}

CONSTANTS: dict[str, dict[str, Constants]] = {
    "dc": {**_SHARED, "svhn": _SVHN, "cifar100": _CIFAR100},
    "mtt": {**_SHARED, "svhn": _SVHN, "cifar100": _CIFAR10},
    "frepo": {**_SHARED, "cifar10": _TRUE_CIFAR10, "cifar100": _CIFAR100},
}
"""Means and standard deviations of the channels by code base and data set, as these code bases have them.

The code bases of trajectory matching normalise CIFAR-100 with the constants of CIFAR-10. Those of CIFAR-10 that most
code bases use are not its standard deviations.
"""

_SAMPLE, _RATIO, _SHIFT = 2000, 1.6, 0.4
"""Real images for the statistics; largest ratio of standard deviations, and largest distance of means relative to the
standard deviation, for which a set fits a space."""


def _uncentred(real: RealData, normalised: Preprocess) -> Preprocess:
    """Return the whitening of RFAD: by second moments without a mean image, with a tenth of their mean added."""
    size = math.prod(real.image_shape)
    moments, count = torch.zeros(size, size, dtype=torch.float64), 0
    for index in torch.split(torch.arange(len(real)), 2000):
        flat = normalised(real.unit_images(index).cpu()).flatten(1).double()
        moments.addmm_(flat.T, flat)
        count += len(flat)
    values, basis = torch.linalg.eigh(moments / count)
    values = values.clamp(min=0)
    whitening = Whitening(torch.zeros(size), basis.float(), values.float(), 0.1 * float(values.mean()))
    return Preprocess(normalised.mean, normalised.std, whitening)


def _standardised(real: RealData, normalised: Preprocess) -> Preprocess:
    """Return the whitening of FRePo and RCIG: of normalised images, with a tenth of the mean eigenvalue added."""
    whitening = Whitening.fit(real.stored, 0.1, lambda part: normalised(unit_range(part)))
    relative = Whitening(
        whitening.mean, whitening.basis, whitening.eigenvalues, 0.1 * float(whitening.eigenvalues.mean())
    )
    return Preprocess(normalised.mean, normalised.std, relative)


SPACES: Mapping[str, Callable[[RealData, Preprocess], Preprocess]] = {
    "unit": lambda real, normalised: Preprocess.unit(len(normalised.mean)),  # noqa: ARG005
    "normalised": lambda real, normalised: normalised,  # noqa: ARG005
    "zca": lambda real, normalised: Preprocess.fit_zca(real.stored),  # noqa: ARG005
    "zca-standardised": _standardised,
    "zca-uncentred": _uncentred,
}
"""Value spaces by name, as functions of the real training data and the normalisation of the code base.

zca is the whitening of trajectory matching (unit images, 0.1 is added to the eigenvalues), zca-standardised that of
FRePo and RCIG, and zca-uncentred that of RFAD.
"""


@final
@dataclass(frozen=True)
class SpaceFit:
    """Agreement of a set with real images in a value space.

    Attributes:
        name: Name of the space, a key of `SPACES`.
        preprocess: Preprocessing of the space.
        ratio: Standard deviation of the set's values relative to that of real images in the space.
        shift: Distance of the mean of the set's values from that of real images, relative to their standard deviation.
        outside: Fraction of pixels outside of the unit range, with a tolerance of 0.05, after the space is undone.
    """

    name: str
    preprocess: Preprocess
    ratio: float
    shift: float
    outside: float

    @property
    def fits(self) -> bool:
        """Whether the set has the statistics of the space."""
        return 1 / _RATIO <= self.ratio <= _RATIO and self.shift <= _SHIFT

    def __str__(self) -> str:
        return f"{self.name} (standard deviation times {self.ratio:.2f}, mean off by {self.shift:.2f})"


def normalisation(code_base: str, real: RealData) -> Preprocess:
    """Return the normalisation of a code base for a data set, or that of the real data where none is known.

    Args:
        code_base: Name of the code base, a key of `CONSTANTS`.
        real: Real data, by whose name the constants are found.
    """
    known = CONSTANTS[code_base].get(real.name)
    return Preprocess.fit_normalise(real.stored) if known is None else Preprocess.normalise(*known)


def space_fits(images: Tensor, real: RealData, code_base: str, names: Sequence[str]) -> list[SpaceFit]:
    """Return the agreement of a set with each of several value spaces.

    Args:
        images: Images of the set, (M, C, H, W), in an unknown space.
        real: Real training data of the set.
        code_base: Key of `CONSTANTS`, whose normalisation is applied.
        names: Names of the spaces, keys of `SPACES`.

    Examples:
        >>> import ddsdk, torch
        >>> from ddsdk.importing import space_fits
        >>> real = ddsdk.load("digits")
        >>> fits = space_fits(real.batch(torch.arange(50)).x, real, "dc", ["unit", "normalised"])
        >>> [fit.name for fit in fits if fit.fits]
        ['normalised']
    """
    unknown = [name for name in names if name not in SPACES]
    require(not unknown, "space", f"be among {', '.join(SPACES)}", ", ".join(unknown))
    normalised = normalisation(code_base, real)
    count = min(_SAMPLE, len(real))
    sample = real.unit_images(torch.randperm(len(real), generator=generator("space"))[:count]).cpu()
    deviation, mean = float(images.std()), float(images.mean())
    fits = []
    for name in names:
        preprocess = SPACES[name](real, normalised)
        values = preprocess(sample)
        undone = preprocess.inverse(images)
        fits.append(
            SpaceFit(
                name,
                preprocess,
                deviation / float(values.std()),
                abs(mean - float(values.mean())) / float(values.std()),
                float(((undone < -0.05) | (undone > 1.05)).float().mean()),
            )
        )
    return fits
