"""Gaussian mechanism on Poisson samples: the only access to private records.

Noise and samples come from the cryptographic random generator of the operating system, and no seed exists. A generator
of torch has a seed of 32 bits: an attacker with all records but one could try every seed and remove the noise.

Rows are clipped, summed and noised in float64, whatever the default type of torch is. The result is rounded once, to
float32: rounding of a noised sum costs no privacy, and hides the lowest digits, in which rounding errors of the sum and
gaps between the possible values of the noise would show.
"""

from __future__ import annotations

import operator
import os
import threading
from collections.abc import Callable
from typing import Literal, NoReturn, final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtri
from torch import Tensor

import ddsdk as dd
from ddsdk.artefact import NoisedRelease
from ddsdk.training import pieces
from ddsdk_integrations.privacy.budget import BudgetSpentError
from ddsdk_integrations.privacy.refusals import PrivacyError, checked_rows, refuse_mixed_rows

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

    A mechanism cannot be copied, pickled or used after a fork: a copy could make releases that no ledger counts.
    Threads may share it, and rows may call it again: each release is made once.

    Args:
        real: Private records; use `PrivateData.mechanism`, which first enters the releases in the ledger.
        release: Releases that the ledger counts already.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.privacy import Budget, Ledger, PrivateData
        >>> real = ddsdk.load("digits").with_preprocess(ddsdk.Preprocess.unit(1))
        >>> private = PrivateData(real, Ledger(Budget(epsilon=1, delta=1e-5)), class_size=135)
        >>> mechanism = private.mechanism("sums of pixels", releases=1, sample_rate=0.1, noise_multiplier=5)
        >>> mechanism.noised_sum(lambda batch: batch.x.flatten(1), 64, by="class").shape
        torch.Size([10, 64])
    """

    def __init__(self, real: dd.RealData, release: NoisedRelease) -> None:
        self._release, self._real = release, real
        # One item for each release. To take one is a single step of the interpreter, which no signal handler
        # interrupts; the lock keeps other threads out where Python has no global lock.
        self._tickets = iter(range(release.count))
        self._guard = threading.RLock()
        self._process = os.getpid()

    @property
    def release(self) -> NoisedRelease:
        """Releases that the ledger counts already."""
        return self._release

    @property
    def left(self) -> int:
        """Number of releases that are not made yet."""
        return operator.length_hint(self._tickets)

    def __deepcopy__(self, memo: object = None) -> NoReturn:
        """Refuse a copy.

        Raises:
            PrivacyError: Always, because a copy could make releases that no ledger counts.
        """
        raise PrivacyError(f"a mechanism must not be copied or stored, got one for {self.release.what}")

    __copy__ = __reduce_ex__ = __deepcopy__

    @torch.no_grad()
    def noised_sum(self, rows: PerExample, width: int, *, by: Literal["all", "class"] = "all") -> Tensor:
        """Return one noised sum of clipped rows, (D,), or one for each class, (K, D), float32; this is one release.

        `rows` is first tested on noise images: `ValueError` is raised for a wrong shape, and `PrivacyError` if a row
        depends on other records of its batch. Neither counts as a release; see `PrivateData.check_rows` for the same
        test before any payment. `BudgetSpentError` is raised if all releases of the mechanism are made.

        Args:
            rows: Function from records to rows; the row of a record must not depend on other records of the batch.
            width: Length D of a row; the sample may be empty and then has no row to measure.
            by: Grouping of the sum: ``"all"`` for one sum, (D,), or ``"class"`` for one sum for each class, (K, D).
                The class sums are one release, because each record has one class and enters one sum.
        """
        self._require_ticket(self.left > 0)
        refuse_mixed_rows(rows, width, self._real, thorough=self.left == self.release.count)
        with self._guard:
            self._require_ticket(next(self._tickets, None) is not None)
        # Apple's GPUs have no float64.
        device = torch.device("cpu") if self._real.device.type == "mps" else self._real.device
        groups = self._real.num_classes if by == "class" else 1
        total = torch.zeros(groups, width, dtype=torch.float64, device=device)
        index = torch.nonzero(secret_bernoulli(len(self._real), self.release.sample_rate)).flatten()
        for part in pieces(len(index), max(1, min(_MOST_RECORDS, _MOST_NUMBERS // width))):
            batch = self._real.batch(index[part])
            record_rows = checked_rows(rows, batch, width).to(device).double()
            group = batch.y.argmax(1).to(device) if by == "class" else torch.zeros_like(record_rows[:, 0]).long()
            total.index_add_(0, group, clipped(record_rows, self.release.clip))
        noise = secret_normal(total.shape).to(device)
        noised = total + self.release.noise_multiplier * self.release.clip * noise
        rounded = noised.to(torch.float32).to(self._real.device)
        return rounded if by == "class" else rounded[0]

    def _require_ticket(self, has_one: bool) -> None:
        """Check that a release may be made.

        Raises:
            BudgetSpentError: If none is left.
            PrivacyError: If this process is a fork of that of the mechanism.
        """
        if os.getpid() != self._process:
            raise PrivacyError(
                f"a mechanism must stay in the process that paid for it, got a fork, for {self.release.what}: pay for "
                "its own releases there, with a ledger that has a path"
            )
        if not has_one:
            raise BudgetSpentError(
                f"all {self.release.count} releases of {self.release.what} are made: enter more with "
                "PrivateData.mechanism"
            )


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
