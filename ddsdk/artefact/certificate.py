"""Certificate of a private release, as plain values: a machine can read it, and compute epsilon again.

It says what was done. Whether that is true, a file cannot prove: it is worth as much as who signs for it.
"""

from __future__ import annotations

import math

import msgspec

from ddsdk.foundation import clean, require, require_rate

NO_PRIVACY = "no formal privacy guarantee"
_LONGEST = 300


def require_line(name: str, text: str) -> None:
    """Raise ValueError unless a text is one printable line that a certificate can hold."""
    rule = f"be one line of at most {_LONGEST} printable characters"
    require(text == clean(text, _LONGEST), name, rule, clean(text))


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The strictness that both share: no unknown entry, and short texts without control characters."""

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            for text in value if isinstance(value, tuple | list) else (value,):
                if isinstance(text, str):
                    require_line(name, text)


class NoisedRelease(_Record, frozen=True, kw_only=True):
    """Noised sums of one kind.

    Attributes:
        what: Name of the sums, in words.
        clip: Norm to which the row of a record was shortened.
        noise_multiplier: Standard deviation of the noise, over `clip`.
        sample_rate: Probability with which a record was in a sample.
        count: Number of releases of a sum.
    """

    what: str
    clip: float
    noise_multiplier: float
    sample_rate: float
    count: int

    def __post_init__(self) -> None:
        super().__post_init__()
        require_rate("clip", self.clip)
        require_rate("noise_multiplier", self.noise_multiplier)
        require(0 < self.sample_rate <= 1, "sample_rate", "lie in 0 < value <= 1", self.sample_rate)
        require(self.count >= 1, "count", "be at least 1", self.count)

    @property
    def line(self) -> str:
        """Release in one line."""
        return (
            f"{self.count} of {self.what}: noise {self.noise_multiplier:.6g} x clip norm {self.clip:.6g}, "
            f"sampling rate {self.sample_rate:.6g}"
        )


class Certificate(_Record, frozen=True, kw_only=True):
    """(epsilon, delta)-differential privacy of everything that one ledger counted.

    Attributes:
        epsilon: Privacy loss of all releases together, restarts and trials among them.
        delta: Probability of a larger loss.
        adjacency: Relation of two data sets that must be hard to tell apart.
        protects: Unit of a record.
        mechanism: Treatment of the records.
        releases: Ledger of the releases.
        accountant: Program that composed them, with its version.
        noise_source: Source of noise and samples.
        assumptions: Further assumptions, such as public facts.
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
        """Guarantee in one line, which the card shows; epsilon is rounded up."""
        epsilon = math.ceil(self.epsilon * 1e4) / 1e4
        return (
            f"({epsilon:.10g}, {self.delta:.4g})-differential privacy, {self.adjacency}, by {self.accountant}, "
            "under the assumptions of the certificate"
        )

    @property
    def facts(self) -> list[tuple[str, str]]:
        """Entries as (name, text), one row for each release and each assumption."""
        plain = ("epsilon", "delta", "adjacency", "protects", "mechanism", "accountant", "noise_source")
        return [
            *((name, f"{v:.6g}" if isinstance(v := getattr(self, name), float) else v) for name in plain),
            *(("release", one.line) for one in self.releases),
            *(("assumption", text) for text in self.assumptions),
        ]
