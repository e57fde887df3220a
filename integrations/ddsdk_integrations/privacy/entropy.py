"""Random numbers that nobody can repeat: from the operating system's cryptographic generator, with no seed to keep.

A generator of torch takes 32 bits of a seed: who knows what a release was made of but for one record can try them all.
"""

from __future__ import annotations

import os

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtri
from torch import Tensor


def _uniform(n: int) -> NDArray[np.float64]:
    """Return n uniform numbers strictly between 0 and 1, of 53 bits each."""
    words = np.frombuffer(os.urandom(8 * n), dtype=np.uint64)
    found: NDArray[np.float64] = ((words >> np.uint64(11)).astype(np.float64) + 0.5) / 2.0**53
    return found


def secret_bernoulli(n: int, probability: float) -> Tensor:
    """Return n independent coins, (n,) bool, each true with `probability`."""
    return torch.from_numpy(_uniform(n) < probability)


def secret_normal(shape: torch.Size) -> Tensor:
    """Return independent standard normal numbers, float64."""
    return torch.from_numpy(ndtri(_uniform(shape.numel()))).view(shape)
