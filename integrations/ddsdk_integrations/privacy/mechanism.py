"""Gaussian mechanism on Poisson samples: the only access to private records.

Noise and samples come from the cryptographic random generator of the operating system, and no seed exists. A generator
of torch has a seed of 32 bits: an attacker with all records but one could try every seed and remove the noise.
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
from ddsdk_integrations.privacy.refusals import PrivacyError, refuse_mixed_rows

PerExample = Callable[[dd.Batch], Tensor]
"""Function from B records to one row for each, (B, D); a row depends on its own record only."""

_MOST_RECORDS, _MOST_NUMBERS = 256, 1 << 24
"""Largest number of records and of values in one piece of a sample: a row may be as long as a network has weights."""


@final
class Mechanism:
    """Gaussian mechanism on Poisson samples of private records, for a fixed number of releases.

    Each release draws every record with probability `sample_rate`, computes one row for each drawn record, clips the
    rows to norm `clip`, sums them, and adds Gaussian noise of standard deviation noise_multiplier x clip to every
    value. One added or removed record changes the sum by a vector of norm `clip` at most, so each release is
    differentially private at the cost in the ledger. An empty sample is released like any other.

    A mechanism cannot be copied or pickled: a copy could make releases that no ledger counts.

    Args:
        real: Private records; use `PrivateData.mechanism`, which first enters the releases in the ledger.
        release: Releases that the ledger counts already.

    Attributes:
        release: Releases that the ledger counts already.
        left: Number of releases that are not made yet.

    Example:
        >>> import ddsdk
        >>> from ddsdk_integrations.privacy import Budget, Ledger, PrivateData
        >>> real = ddsdk.load("digits").with_preprocess(ddsdk.Preprocess.unit(1))
        >>> private = PrivateData(real, Ledger(Budget(epsilon=1, delta=1e-5)), class_size=135)
        >>> mechanism = private.mechanism("sums of pixels", releases=1, sample_rate=0.1, noise_multiplier=5)
        >>> mechanism.noised_sum(lambda batch: batch.x.flatten(1), 64, by="class").shape
        torch.Size([10, 64])
    """

    def __init__(self, real: dd.RealData, release: NoisedRelease) -> None:
        self.release = release
        self.left = release.count
        self._real = real

    def __deepcopy__(self, memo: object = None) -> NoReturn:
        """Refuse a copy.

        Raises:
            PrivacyError: Always, because a copy could make releases that no ledger counts.
        """
        raise PrivacyError(f"a mechanism must not be copied or stored, got one for {self.release.what}")

    __copy__ = __reduce_ex__ = __deepcopy__

    @torch.no_grad()
    def noised_sum(self, rows: PerExample, width: int, *, by: Literal["all", "class"] = "all") -> Tensor:
        """Return one noised sum of clipped rows, (D,), or one for each class, (K, D); this is one release.

        `PrivacyError` is raised if a row depends on other records of its batch; `rows` is tested on noise images.

        Args:
            rows: Function from records to rows; the row of a record must not depend on other records of the batch.
            width: Length D of a row; the sample may be empty and then has no row to measure.
            by: Grouping of the sum: ``"all"`` for one sum, (D,), or ``"class"`` for one sum for each class, (K, D).
                The class sums are one release, because each record has one class and enters one sum.

        Raises:
            BudgetSpentError: If all releases of the mechanism are made.
        """
        if self.left <= 0:
            raise BudgetSpentError(
                f"all {self.release.count} releases of {self.release.what} are made: enter more with "
                "PrivateData.mechanism"
            )
        refuse_mixed_rows(rows, self._real, thorough=self.left == self.release.count)
        self.left -= 1
        total = torch.zeros(self._real.num_classes if by == "class" else 1, width, device=self._real.device)
        index = torch.nonzero(secret_bernoulli(len(self._real), self.release.sample_rate)).flatten()
        for part in pieces(len(index), max(1, min(_MOST_RECORDS, _MOST_NUMBERS // width))):
            batch = self._real.batch(index[part])
            with torch.enable_grad():
                record_rows = rows(batch).detach().float()
            shape = (len(batch.x), width)
            require(tuple(record_rows.shape) == shape, "rows", f"have shape {shape}", tuple(record_rows.shape))
            group = batch.y.argmax(1) if by == "class" else torch.zeros(len(record_rows), dtype=torch.int64)
            total.index_add_(0, group.to(total.device), clipped(record_rows, self.release.clip).to(total))
        noise = secret_normal(total.shape).to(total)
        noised = total + self.release.noise_multiplier * self.release.clip * noise
        return noised if by == "class" else noised[0]


def clipped(rows: Tensor, norm: float) -> Tensor:
    """Return rows (B, D) clipped to Euclidean norm `norm`; a row that is not finite becomes zero."""
    finite = torch.isfinite(rows).all(1, keepdim=True)
    rows = torch.where(finite, rows, torch.zeros_like(rows))
    bounded: Tensor = rows * (norm / rows.norm(dim=1, keepdim=True).clamp_min(1e-12)).clamp_max(1)
    return bounded


def _uniform(n: int) -> NDArray[np.float64]:
    """Return n uniform numbers strictly between 0 and 1, of 53 bits each."""
    words = np.frombuffer(os.urandom(8 * n), dtype=np.uint64)
    uniform: NDArray[np.float64] = ((words >> np.uint64(11)).astype(np.float64) + 0.5) / 2.0**53
    return uniform


def secret_bernoulli(n: int, probability: float) -> Tensor:
    """Return n independent draws that are true with `probability`, (n,) bool; they cannot be reproduced."""
    return torch.from_numpy(_uniform(n) < probability)


def secret_normal(shape: torch.Size) -> Tensor:
    """Return independent standard normal numbers, float64; they cannot be reproduced."""
    return torch.from_numpy(ndtri(_uniform(shape.numel()))).view(shape)
