"""The one door between private records and everything else: clipped sums of a Poisson sample, with noise."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Literal, final

import torch
from torch import Tensor

import ddsdk as dd
from ddsdk.errors import require, require_rate
from ddsdk.inner.micro import pieces
from ddsdk_integrations.privacy.budget import Ledger, Reservation

__all__ = ["Mechanism", "PerExample", "PrivacyError", "Sealed"]

PerExample = Callable[[dd.Batch], Tensor]
"""From B records to a row for each of them, (B, D), which depends on that record alone."""

_PIECE = 256


class PrivacyError(ValueError):
    """Something would show records without noise; the message says what, and why."""


@final
class Sealed:
    """What a method sees of private data: how many classes there are, and where. Every draw is refused.

    Args:
        real: The records.
    """

    def __init__(self, real: dd.RealData) -> None:
        self.num_classes = real.num_classes
        self.device = real.device

    def of_class(self, c: int, n: int, rng: torch.Generator) -> dd.Batch:  # noqa: ARG002
        """Refuse.

        Raises:
            PrivacyError: Always.
        """
        raise PrivacyError(f"private records must not leave the mechanism, got a draw of {n} of class {c}")

    def mixed(self, n: int, rng: torch.Generator) -> dd.Batch:  # noqa: ARG002
        """Refuse.

        Raises:
            PrivacyError: Always.
        """
        raise PrivacyError(f"private records must not leave the mechanism, got a draw of {n}")


@final
class Mechanism:
    """The Gaussian mechanism on Poisson samples of private records.

    Each release draws every record with probability `sample_rate`, lets `per_example` make a row of each, shortens rows
    to `clip`, adds them up, and adds Gaussian noise of standard deviation noise_multiplier x clip to every number.
    Adding or removing one record moves the sum by `clip` at most, whatever the record is, and so the release is
    differentially private at the cost that the ledger counts. An empty sample is released like any other.

    Noise and samples come from the operating system's entropy at each construction. Their seed is not kept, for who
    knows it can take the noise off. Torch's generator is no cryptographic one, and floating-point attacks are out of
    scope.

    Args:
        real: The records. Their normalisation must be public, or have been paid for.
        ledger: Counts.
        sample_rate: Must be public: one over the exact number of records tells that number.
        noise_multiplier: See `noise_for`.
        clip: Norm of a row.

    Attributes:
        sealed: What a method may see of the data.
        image_shape: (C, H, W), public by declaration.
    """

    def __init__(
        self,
        real: dd.RealData,
        ledger: Ledger,
        *,
        sample_rate: float,
        noise_multiplier: float,
        clip: float = 1.0,
    ) -> None:
        require(0 < sample_rate <= 1, "sample_rate", "lie in 0 < value <= 1", sample_rate)
        require_rate("noise_multiplier", noise_multiplier)
        require_rate("clip", clip)
        self.ledger = ledger
        self.sample_rate, self.noise_multiplier, self.clip = sample_rate, noise_multiplier, clip
        self.sealed = Sealed(real)
        self.image_shape = real.image_shape
        self._real = real
        self._secret = torch.Generator().manual_seed(secrets.randbits(63))

    def reserve(self, what: str, releases: int) -> Reservation:
        """Take a number of releases from the budget; see `Ledger.reserve`."""
        return self.ledger.reserve(
            what, noise_multiplier=self.noise_multiplier, sample_rate=self.sample_rate, count=releases
        )

    @torch.no_grad()
    def noised_sum(
        self,
        reservation: Reservation,
        per_example: PerExample,
        width: int,
        *,
        by: Literal["all", "class"] = "all",
    ) -> Tensor:
        """Release one sum.

        Args:
            reservation: From `reserve`; one release is entered before a record is looked at.
            per_example: Rows of records.
            width: Length D of a row, which an empty sample cannot tell.
            by: ``"all"``: one sum, (D,). ``"class"``: one for each class, (K, D), in one release: a record has one
                class and is in one of the sums.
        """
        reservation.spend()
        classes = self._real.num_classes if by == "class" else 1
        total = torch.zeros(classes, width, device=self._real.device)
        drawn = torch.rand(len(self._real), generator=self._secret) < self.sample_rate
        index = torch.nonzero(drawn).flatten()
        for part in pieces(len(index), _PIECE):
            batch = self._real.batch(index[part])
            with torch.enable_grad():
                rows = per_example(batch).detach()
            wanted = (len(batch.x), width)
            require(tuple(rows.shape) == wanted, "per_example", f"return rows {wanted}", tuple(rows.shape))
            owner = batch.y.argmax(1) if by == "class" else torch.zeros(len(rows), dtype=torch.int64)
            total.index_add_(0, owner.to(total.device), clipped(rows, self.clip).to(total))
        noise = torch.randn(total.shape, generator=self._secret).to(total)
        noised = total + self.noise_multiplier * self.clip * noise
        return noised if by == "class" else noised[0]


def clipped(rows: Tensor, norm: float) -> Tensor:
    """Return rows (B, D) shortened to `norm`. One that is not finite counts as zero: it could not be bounded."""
    finite = torch.isfinite(rows).all(1, keepdim=True)
    rows = torch.where(finite, rows, torch.zeros_like(rows))
    shortened: Tensor = rows * (norm / rows.norm(dim=1, keepdim=True).clamp_min(1e-12)).clamp_max(1)
    return shortened
