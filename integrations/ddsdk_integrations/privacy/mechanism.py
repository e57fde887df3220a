"""The one door between private records and everything else: clipped sums of a Poisson sample, with noise.

Noise and samples come from the operating system's cryptographic generator, with no seed to keep: a generator of torch
takes 32 bits of a seed, and who knows what a release was made of but for one record can try them all.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Literal, NoReturn, final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtri
from torch import Tensor

import ddsdk as dd
from ddsdk.artefact import NoisedRelease
from ddsdk.foundation import require
from ddsdk.training import pieces
from ddsdk_integrations.privacy.budget import BudgetSpentError
from ddsdk_integrations.privacy.guard import PrivacyError, refuse_mixed_rows

PerExample = Callable[[dd.Batch], Tensor]
"""Function from B records to a row for each of them, (B, D), which depends on that record alone."""

_MOST_RECORDS, _MOST_NUMBERS = 256, 1 << 24
"""Limits of one piece of a sample: rows may be as long as a network has weights."""


@final
class Mechanism:
    """The Gaussian mechanism on Poisson samples of private records, for a number of releases that are paid.

    Each release draws every record with probability `sample_rate`, lets a function make a row of each, shortens rows
    to `clip`, adds them up, and adds Gaussian noise of standard deviation noise_multiplier x clip to every number.
    Adding or removing one record moves the sum by `clip` at most, whatever the record is, and so the release is
    differentially private at the cost that the ledger counts. An empty sample is released like any other.

    A mechanism is not copied or stored: a copy would make releases that nobody paid for.

    Args:
        real: Records; see `PrivateData.mechanism`, which enters the releases in the ledger first.
        release: Releases that were entered.

    Attributes:
        release: Releases that were entered.
        left: Number of releases that are paid and not made yet.
    """

    def __init__(self, real: dd.RealData, release: NoisedRelease) -> None:
        self.release = release
        self.left = release.count
        self._real = real

    def __deepcopy__(self, memo: object = None) -> NoReturn:
        """Refuse."""
        raise PrivacyError(f"a mechanism must not be copied or stored, got one for {self.release.what}")

    __copy__ = __reduce_ex__ = __deepcopy__

    @torch.no_grad()
    def noised_sum(self, rows: PerExample, width: int, *, by: Literal["all", "class"] = "all") -> Tensor:
        """Release one sum.

        Args:
            rows: Rows of records. It is tried on noise first: the row of one image must not depend on the others of a
                batch.
            width: Length D of a row, which an empty sample cannot tell.
            by: ``"all"``: one sum, (D,). ``"class"``: one for each class, (K, D), in one release: a record has one
                class and is in one of the sums.

        Raises:
            BudgetSpentError: If all releases are made.
            PrivacyError: If a row depends on other records.
        """
        if self.left <= 0:
            raise BudgetSpentError(f"all {self.release.count} releases of {self.release.what} are made")
        refuse_mixed_rows(rows, self._real, thorough=self.left == self.release.count)
        self.left -= 1
        total = torch.zeros(self._real.num_classes if by == "class" else 1, width, device=self._real.device)
        index = torch.nonzero(secret_bernoulli(len(self._real), self.release.sample_rate)).flatten()
        for part in pieces(len(index), max(1, min(_MOST_RECORDS, _MOST_NUMBERS // width))):
            batch = self._real.batch(index[part])
            with torch.enable_grad():
                found = rows(batch).detach().float()
            wanted = (len(batch.x), width)
            require(tuple(found.shape) == wanted, "rows", f"have shape {wanted}", tuple(found.shape))
            owner = batch.y.argmax(1) if by == "class" else torch.zeros(len(found), dtype=torch.int64)
            total.index_add_(0, owner.to(total.device), clipped(found, self.release.clip).to(total))
        noise = secret_normal(total.shape).to(total)
        noised = total + self.release.noise_multiplier * self.release.clip * noise
        return noised if by == "class" else noised[0]


def clipped(rows: Tensor, norm: float) -> Tensor:
    """Return rows (B, D) shortened to `norm`. One that is not finite counts as zero: it could not be bounded."""
    finite = torch.isfinite(rows).all(1, keepdim=True)
    rows = torch.where(finite, rows, torch.zeros_like(rows))
    shortened: Tensor = rows * (norm / rows.norm(dim=1, keepdim=True).clamp_min(1e-12)).clamp_max(1)
    return shortened


def _uniform(n: int) -> NDArray[np.float64]:
    """Return n uniform numbers strictly between 0 and 1, of 53 bits each."""
    words = np.frombuffer(os.urandom(8 * n), dtype=np.uint64)
    found: NDArray[np.float64] = ((words >> np.uint64(11)).astype(np.float64) + 0.5) / 2.0**53
    return found


def secret_bernoulli(n: int, probability: float) -> Tensor:
    """Return n independent coins that nobody can repeat, (n,) bool, each true with `probability`."""
    return torch.from_numpy(_uniform(n) < probability)


def secret_normal(shape: torch.Size) -> Tensor:
    """Return independent standard normal numbers that nobody can repeat, float64."""
    return torch.from_numpy(ndtri(_uniform(shape.numel()))).view(shape)
