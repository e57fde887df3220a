"""Optimizers of students as pure, differentiable functions of a state and a gradient.

A state is a tuple of tensors whose first one is the flat weight vector. `torch.optim` changes weights in place, which
no graph can pass through; these do not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, final

import torch
from torch import Tensor

from ddsdk.foundation import Checked, Momentum, PositiveFloat, require, require_momentum

State = tuple[Tensor, ...]
"""Weights, (P,), and the other tensors of an optimizer."""


class InnerOptimizer(Protocol):
    """The optimizer of a student."""

    def start(self, weights: Tensor) -> State:
        """Return the state before the first step."""
        ...

    def step(self, state: State, gradient: Tensor, rate: Tensor) -> State:
        """Return the state after a step along `gradient`, (P,), with learning rate `rate`, a scalar tensor.

        `PacedSGD` takes a pair of rate and momentum, (2,).
        """
        ...


@final
@dataclass(frozen=True, kw_only=True)
class InnerSGD(Checked):
    """SGD as `torch.optim.SGD` steps: m <- momentum m + g, w <- w - rate m."""

    momentum: Momentum = 0.0

    def start(self, weights: Tensor) -> State:
        """Return (weights,), with a zero buffer beside it where there is momentum."""
        return (weights, torch.zeros_like(weights)) if self.momentum else (weights,)

    def step(self, state: State, gradient: Tensor, rate: Tensor) -> State:
        """Return the next state."""
        if not self.momentum:
            return (state[0] - rate * gradient,)
        buffer = self.momentum * state[1] + gradient
        return state[0] - rate * buffer, buffer


@final
@dataclass(frozen=True)
class PacedSGD:
    """`InnerSGD` with a momentum that comes with each step, beside its learning rate: both may be learned."""

    def start(self, weights: Tensor) -> State:
        """Return (weights, zero buffer)."""
        return weights, torch.zeros_like(weights)

    def step(self, state: State, gradient: Tensor, rate: Tensor) -> State:
        """Return the next state; `rate` holds learning rate and momentum, (2,)."""
        require(tuple(rate.shape) == (2,), "rate", "be a pair of rate and momentum", tuple(rate.shape))
        buffer = rate[1] * state[1] + gradient
        return state[0] - rate[0] * buffer, buffer


@final
@dataclass(frozen=True, kw_only=True)
class InnerAdam(Checked):
    """Adam with epsilon inside the root: w <- w - rate m^ / sqrt(v^ + eps^2).

    Outside the root, as `torch.optim.Adam` has it, the derivative of sqrt(0) makes a weight without gradient infinite.

    Attributes:
        betas: Decay of the first and the second moment, each in 0 <= beta < 1.
        eps: Epsilon.
    """

    betas: tuple[float, float] = (0.9, 0.999)
    eps: PositiveFloat = 1e-8

    def __post_init__(self) -> None:
        super().__post_init__()
        require(len(self.betas) == 2, "betas", "be two numbers", self.betas)
        for beta in self.betas:
            require_momentum("betas", beta)

    def start(self, weights: Tensor) -> State:
        """Return (weights, first moment, second moment, number of steps)."""
        return weights, torch.zeros_like(weights), torch.zeros_like(weights), weights.new_zeros(())

    def step(self, state: State, gradient: Tensor, rate: Tensor) -> State:
        """Return the next state."""
        weights, first, second, count = state
        b1, b2 = self.betas
        count = count.detach() + 1
        first = b1 * first + (1 - b1) * gradient
        second = b2 * second + (1 - b2) * gradient.square()
        unbiased = (second / (1 - b2**count) + self.eps**2).sqrt()
        return weights - rate * (first / (1 - b1**count)) / unbiased, first, second, count
