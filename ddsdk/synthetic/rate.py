"""Numbers that are learned with the set: learning rates of students, and a factor between scores and a softmax."""

from __future__ import annotations

import math
from typing import Literal, final, get_args

import torch
from torch import Tensor, nn

from ddsdk.foundation import require, require_count, require_momentum, require_rate

RateScale = Literal["plain", "log", "softplus"]
"""Number that is trained: the rate r itself, log r, or the number whose softplus log(1 + exp(.)) is r."""

_HIGHEST_MOMENTUM = 0.99
_LARGEST = 10.0


@final
class LearnedRate(nn.Module):
    """A positive number that is trained with the images, or one for each step of a student.

    An optimizer that takes steps of one length, such as Adam, moves a plain rate by as much whatever its size, and the
    logarithm of a rate by as large a share of it; softplus does the one for large and the other for small rates.

    Args:
        start: Rate at the start.
        low: Lowest rate. HaBa's code has 0.001; without a bound a plain rate turns negative and the run explodes.
        high: Highest rate.
        steps: Number of rates, one for each step; None for one that all steps share.
        momentum: Momentum of each step at the start, learned too, in 0..0.99; it needs `steps`. None for none.
        scale: Number that is trained.
    """

    def __init__(
        self,
        start: float,
        *,
        low: float = 1e-4,
        high: float = 1.0,
        steps: int | None = None,
        momentum: float | None = None,
        scale: RateScale = "plain",
    ) -> None:
        super().__init__()
        for name, value in (("start", start), ("low", low), ("high", high)):
            require_rate(name, value)
        require(low <= start <= high, "start", f"lie in {low} <= start <= {high}", start)
        require(scale in get_args(RateScale), "scale", f"be one of {list(get_args(RateScale))}", scale)
        if steps is not None:
            require_count("steps", steps)
        if momentum is not None:
            require_momentum("momentum", momentum)
            require(steps is not None, "steps", "be a number where momentum is learned", steps)
        shape = () if steps is None else (steps,)
        self._scale = scale
        self._low, self._high = (self._stored(v) for v in (low, high))
        self.value = nn.Parameter(torch.full(shape, self._stored(start)))
        self.momentum = None if momentum is None else nn.Parameter(torch.full(shape, float(momentum)))

    def forward(self) -> Tensor:
        """Return the rate, (), or rates, (steps,), or pairs with a momentum, (steps, 2), with graph; see `Unroll`."""
        rate = self._read(self.value)
        return rate if self.momentum is None else torch.stack([rate, self.momentum], 1)

    @property
    def rates(self) -> float | tuple[float, ...]:
        """Rate, or that of each step."""
        return _numbers(self._read(self.value))

    @property
    def momenta(self) -> float | tuple[float, ...] | None:
        """Momentum of each step, or None where it is not learned."""
        return None if self.momentum is None else _numbers(self.momentum)

    @torch.no_grad()
    def project_(self) -> None:
        """Bring rates and momenta back between their bounds."""
        self.value.clamp_(self._low, self._high)
        if self.momentum is not None:
            self.momentum.clamp_(0, _HIGHEST_MOMENTUM)

    @torch.no_grad()
    def assign_(
        self, rates: float | tuple[float, ...] | None, momenta: float | tuple[float, ...] | None = None
    ) -> bool:
        """Take rates of an earlier set, and momenta if both have some, within the bounds; return whether they fit.

        Args:
            rates: One rate, or one for each step, as in this module; None for a set without.
            momenta: Momenta of the same steps; None for none.
        """
        given = None if rates is None else torch.tensor(rates)
        if given is None or given.shape != self.value.shape:
            return False
        self.value.copy_(torch.tensor([self._stored(rate) for rate in given.flatten().tolist()]).view(given.shape))
        if self.momentum is not None and momenta is not None:
            self.momentum.copy_(torch.tensor(momenta))
        self.project_()
        return True

    def _read(self, stored: Tensor) -> Tensor:
        if self._scale == "plain":
            return stored
        return stored.exp() if self._scale == "log" else nn.functional.softplus(stored)

    def _stored(self, rate: float) -> float:
        if self._scale == "plain":
            return float(rate)
        exact = torch.tensor(rate, dtype=torch.float64)
        return float(exact.log() if self._scale == "log" else exact.expm1().log())


def _numbers(values: Tensor) -> float | tuple[float, ...]:
    found = values.detach()
    return tuple(found.tolist()) if found.ndim else float(found)


@final
class LearnedScale(nn.Module):
    """A positive number, kept as its logarithm, by which scores are multiplied before a softmax (Platt scaling).

    Predictions of a regression on labels have the size of the labels, and not that of their confidence. The factor
    serves the making of a set only: the largest score stays the largest, and the artefact has none.

    Args:
        start: Factor at the start.
    """

    def __init__(self, start: float = 1.0) -> None:
        super().__init__()
        require_rate("start", start)
        self.value = nn.Parameter(torch.tensor(math.log(start)))

    def forward(self) -> Tensor:
        """Return the factor, a scalar with graph."""
        return self.value.exp()

    @torch.no_grad()
    def project_(self) -> None:
        """Keep the logarithm within -10..10, where its exponential is a number one can multiply by."""
        self.value.clamp_(-_LARGEST, _LARGEST)
