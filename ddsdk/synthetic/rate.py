"""Scalars that are learned with a set: learning rates and momenta of students, and a factor on scores."""

from __future__ import annotations

import math
from typing import Literal, final, get_args

import torch
from torch import Tensor, nn

from ddsdk.foundation import require, require_count, require_momentum, require_positive

RateScale = Literal["plain", "log", "softplus"]
"""Trained parameter of a rate r: r itself ("plain"), log r ("log"), or p with r = log(1 + exp(p)) ("softplus")."""

_HIGHEST_MOMENTUM = 0.99
_LARGEST_LOG = 10.0


@final
class LearnedRate(nn.Module):
    """A learning rate that is learned with the images, or one for each training step of a student.

    Optimizer steps of constant length, such as those of Adam, change a plain rate by a constant amount, and a rate that
    is trained as its logarithm by a constant factor. Softplus behaves like a plain rate for large rates, and like the
    logarithm for small ones.

    Args:
        start: Initial value of the rate, in low..high.
        low: Lower bound of the rate, 0.001 in HaBa's code. Without a bound a plain rate can become negative, and the
            run diverges.
        high: Upper bound of the rate.
        steps: Number of rates, one for each training step; None for a single rate of all steps.
        momentum: Initial momentum of each step, learned too, in 0..0.99; it requires `steps`. None for no learned
            momentum.
        scale: Trained parameter of the rate, ``"plain"``, ``"log"`` or ``"softplus"``, see `RateScale`.

    Examples:
        >>> import ddsdk
        >>> rate = ddsdk.synthetic.LearnedRate(0.25, steps=3)
        >>> rate.rates
        (0.25, 0.25, 0.25)
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
            require_positive(name, value)
        require(low <= start <= high, "start", f"lie in {low} <= start <= {high}", start)
        require(scale in get_args(RateScale), "scale", f"be one of {list(get_args(RateScale))}", scale)
        if steps is not None:
            require_count("steps", steps)
        if momentum is not None:
            require_momentum("momentum", momentum)
            require(steps is not None, "steps", "be a number where momentum is learned", steps)
        shape = () if steps is None else (steps,)
        self._scale = scale
        self._low, self._high = (self._to_parameter(v) for v in (low, high))
        self.value = nn.Parameter(torch.full(shape, self._to_parameter(start)))
        self.momentum = None if momentum is None else nn.Parameter(torch.full(shape, float(momentum)))

    def forward(self) -> Tensor:
        """Return the rate, a scalar, the rates, (steps,), or pairs with the momentum, (steps, 2), with graph.

        `ddsdk.training.Unroll` accepts each of these shapes.
        """
        rate = self._to_rate(self.value)
        return rate if self.momentum is None else torch.stack([rate, self.momentum], 1)

    @property
    def rates(self) -> float | tuple[float, ...]:
        """Current rate, or a tuple with the rate of each step."""
        return _numbers(self._to_rate(self.value))

    @property
    def momenta(self) -> float | tuple[float, ...] | None:
        """Current momentum of each step; None if it is not learned."""
        return None if self.momentum is None else _numbers(self.momentum)

    @torch.no_grad()
    def project_(self) -> None:
        """Clamp rates and momenta to their bounds."""
        self.value.clamp_(self._low, self._high)
        if self.momentum is not None:
            self.momentum.clamp_(0, _HIGHEST_MOMENTUM)

    @torch.no_grad()
    def assign_(
        self, rates: float | tuple[float, ...] | None, momenta: float | tuple[float, ...] | None = None
    ) -> bool:
        """Set the rates to those of an earlier set, clamped to the bounds, and the momenta if both sets have some.

        Args:
            rates: Single rate, or one for each step, in the shape of this module; None for a set without learned rates.
            momenta: Momenta of the steps; None for a set without learned momenta.

        Returns:
            Whether the rates have the right shape, and were set.
        """
        values = None if rates is None else torch.tensor(rates)
        if values is None or values.shape != self.value.shape:
            return False
        parameters = [self._to_parameter(rate) for rate in values.flatten().tolist()]
        self.value.copy_(torch.tensor(parameters).view(values.shape))
        if self.momentum is not None and momenta is not None:
            self.momentum.copy_(torch.tensor(momenta))
        self.project_()
        return True

    def _to_rate(self, parameter: Tensor) -> Tensor:
        if self._scale == "plain":
            return parameter
        return parameter.exp() if self._scale == "log" else nn.functional.softplus(parameter)

    def _to_parameter(self, rate: float) -> float:
        if self._scale == "plain":
            return float(rate)
        if self._scale == "log":
            return math.log(rate)
        # log(exp(r) - 1) is r to all digits above 100, where exp(r) overflows in the end.
        return float(rate) if rate > 100 else math.log(math.expm1(rate))


def _numbers(values: Tensor) -> float | tuple[float, ...]:
    detached = values.detach()
    return tuple(detached.tolist()) if detached.ndim else float(detached)


@final
class LearnedScale(nn.Module):
    """A positive factor on scores before a softmax (Platt scaling), stored as its logarithm.

    The predictions of label regression have the magnitude of the labels, not that of a confidence. The factor serves
    distillation only. It does not change the largest score, and the artefact does not store it.

    Args:
        start: Initial value of the factor, positive.

    Examples:
        >>> import ddsdk
        >>> ddsdk.synthetic.LearnedScale(1.0)().item()
        1.0
    """

    def __init__(self, start: float = 1.0) -> None:
        super().__init__()
        require_positive("start", start)
        self.value = nn.Parameter(torch.tensor(math.log(start)))

    def forward(self) -> Tensor:
        """Return the factor, a scalar with graph."""
        return self.value.exp()

    @torch.no_grad()
    def project_(self) -> None:
        """Clamp the logarithm to -10..10, so that the factor neither overflows nor vanishes."""
        self.value.clamp_(-_LARGEST_LOG, _LARGEST_LOG)
