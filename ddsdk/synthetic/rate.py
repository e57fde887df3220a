"""A learning rate of students that is learned with the set."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from ddsdk.errors import require, require_rate

__all__ = ["LearnedRate"]


@final
class LearnedRate(nn.Module):
    """A positive number that is trained with the images.

    Args:
        start: Where it starts.
        low: Never below. HaBa's code has 0.001; without a bound the rate turns negative and the run explodes.
        high: Never above.

    Raises:
        ValueError: Unless 0 < low <= start <= high.
    """

    def __init__(self, start: float, *, low: float = 1e-4, high: float = 1.0) -> None:
        super().__init__()
        for name, value in (("start", start), ("low", low), ("high", high)):
            require_rate(name, value)
        require(low <= start <= high, "start", f"lie in {low} <= start <= {high}", start)
        self.value = nn.Parameter(torch.tensor(float(start)))
        self._low, self._high = low, high

    def forward(self) -> Tensor:
        """Return the rate, a scalar with graph to the parameter."""
        return self.value

    @torch.no_grad()
    def project_(self) -> None:
        """Bring the rate back between its bounds."""
        self.value.clamp_(self._low, self._high)
