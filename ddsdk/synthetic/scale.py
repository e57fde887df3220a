"""A factor between scores and a softmax that is learned with the set."""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor, nn

from ddsdk.foundation import require_rate

_LARGEST = 10.0


@final
class LearnedScale(nn.Module):
    """A positive number, kept as its logarithm, by which scores are multiplied before a softmax (Platt scaling).

    Predictions of a regression on labels have the size of the labels, which says nothing of how sure they are. The
    factor serves the making of a set only: the largest score stays the largest, and the artefact has none.

    Args:
        start: Where it starts.

    Raises:
        ValueError: If `start` is not positive and finite.
    """

    def __init__(self, start: float = 1.0) -> None:
        super().__init__()
        require_rate("start", start)
        self.value = nn.Parameter(torch.tensor(math.log(start)))

    def forward(self) -> Tensor:
        """Return the factor, a scalar with graph to the parameter."""
        return self.value.exp()

    @torch.no_grad()
    def project_(self) -> None:
        """Keep the logarithm within -10..10, where its exponential is a number one can multiply by."""
        self.value.clamp_(-_LARGEST, _LARGEST)
