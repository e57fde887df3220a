"""The certificate of a differentially private release, as plain values from which epsilon can be recomputed.

A certificate is a statement of its makers. It records the mechanism, and a file cannot prove that the mechanism was
used.
"""

from __future__ import annotations

import math

import msgspec

from ddsdk.foundation import clean, require, require_positive

NO_PRIVACY = "no formal privacy guarantee"
_MAX_TEXT = 300
# Accountants need not answer for other values: at 1e-155 the square of the noise is 0, and one of them never returns.
_NOISES, _LEAST_RATE, _MOST_RELEASES = (1e-12, 1e9), 1e-12, 10**12


def require_line(name: str, text: str) -> None:
    """Check that a text is one printable line of at most 300 characters, as in a certificate; ValueError otherwise.

    Args:
        name: Name of the text in the error message.
        text: Text to be checked.

    Examples:
        >>> from ddsdk.artefact import require_line
        >>> require_line("adjacency", "adding or removing one record")
    """
    rule = f"be one line of at most {_MAX_TEXT} printable characters"
    require(text == clean(text, _MAX_TEXT), name, rule, clean(text))


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base class that refuses unknown entries, long texts and control characters."""

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            for text in value if isinstance(value, tuple | list) else (value,):
                if isinstance(text, str):
                    require_line(name, text)


class NoisedRelease(_Record, frozen=True, kw_only=True):
    """Releases of noised sums over the records, such as gradients.

    Attributes:
        what: Name of the sums, in words.
        clip: Clipping norm: the largest norm of the contribution of one record.
        noise_multiplier: Standard deviation of the Gaussian noise, divided by `clip`; from 1e-12 to 1e9.
        sample_rate: Probability of a record to be in the sample of one release, from 1e-12 to 1.
        count: Number of releases, from 1 to 1e12.

    Examples:
        >>> from ddsdk.artefact import NoisedRelease
        >>> NoisedRelease(what="class means", clip=1.0, noise_multiplier=4.0, sample_rate=1.0, count=1).line
        '1 of class means: noise 4 x clip norm 1, sampling rate 1'
    """

    what: str
    clip: float
    noise_multiplier: float
    sample_rate: float
    count: int

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive("clip", self.clip)
        require_positive("noise_multiplier", self.noise_multiplier)
        least, most = _NOISES
        within = least <= self.noise_multiplier <= most
        require(within, "noise_multiplier", f"lie in {least:g}..{most:g}", self.noise_multiplier)
        require(0 < self.sample_rate <= 1, "sample_rate", "lie in 0 < value <= 1", self.sample_rate)
        require(self.sample_rate >= _LEAST_RATE, "sample_rate", f"be at least {_LEAST_RATE:g}", self.sample_rate)
        require(self.count >= 1, "count", "be at least 1", self.count)
        require(self.count <= _MOST_RELEASES, "count", f"be at most {_MOST_RELEASES}", self.count)

    @property
    def line(self) -> str:
        """Description of the releases in one line."""
        return (
            f"{self.count} of {self.what}: noise {self.noise_multiplier:.6g} x clip norm {self.clip:.6g}, "
            f"sampling rate {self.sample_rate:.6g}"
        )


class Certificate(_Record, frozen=True, kw_only=True):
    """The (epsilon, delta)-differential privacy of all releases in one privacy ledger.

    Attributes:
        epsilon: Privacy loss of all releases together, including restarts and trials; finite and not negative.
        delta: Probability of a larger privacy loss, in (0, 1).
        adjacency: Relation of two data sets that the guarantee makes hard to distinguish.
        protects: Unit of one protected record.
        mechanism: Name of the mechanism, in words.
        releases: Ledger of the noised releases, at least one.
        accountant: Program that composed the releases, with its version.
        noise_source: Source of randomness for noise and samples.
        assumptions: Further assumptions of the guarantee, such as public facts.

    Examples:
        >>> import ddsdk
        >>> from ddsdk.artefact import NoisedRelease
        >>> sums = NoisedRelease(what="class means", clip=1.0, noise_multiplier=4.0, sample_rate=1.0, count=1)
        >>> certificate = ddsdk.Certificate(
        ...     epsilon=1.0, delta=1e-5, adjacency="adding or removing one record", protects="one image with its label",
        ...     mechanism="Gaussian mechanism", releases=(sums,), accountant="RDP accountant 1.0",
        ...     noise_source="the operating system", assumptions=("class names are public",))
        >>> certificate.statement.partition(", by")[0]
        '(1, 1e-05)-differential privacy, adding or removing one record'
    """

    epsilon: float
    delta: float
    adjacency: str
    protects: str
    mechanism: str
    releases: tuple[NoisedRelease, ...]
    accountant: str
    noise_source: str
    assumptions: tuple[str, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.epsilon < math.inf, "epsilon", "be finite and not negative", self.epsilon)
        require(0 < self.delta < 1, "delta", "lie strictly between 0 and 1", self.delta)
        require(len(self.releases) > 0, "releases", "hold at least one", 0)

    @property
    def statement(self) -> str:
        """Guarantee in one line, as the dataset card shows it; epsilon is rounded up."""
        epsilon = math.ceil(self.epsilon * 1e4) / 1e4
        return (
            f"({epsilon:.10g}, {self.delta:.4g})-differential privacy, {self.adjacency}, by {self.accountant}, "
            "under the assumptions of the certificate"
        )

    @property
    def facts(self) -> list[tuple[str, str]]:
        """Entries as pairs (name, text), one for each release and each assumption."""
        plain = ("epsilon", "delta", "adjacency", "protects", "mechanism", "accountant", "noise_source")
        return [
            *((name, f"{v:.6g}" if isinstance(v := getattr(self, name), float) else v) for name in plain),
            *(("release", release.line) for release in self.releases),
            *(("assumption", text) for text in self.assumptions),
        ]
