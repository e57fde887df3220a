"""Optimizers of students as pure, differentiable functions of a state and a gradient.

A state is a tuple of tensors whose first one is the flat weight vector. `torch.optim` changes weights in place, which
cuts the graph of an unrolled gradient; these optimizers return new tensors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, final

import torch
from torch import Tensor

from ddsdk.foundation import CheckedDataclass, Momentum, PositiveFloat, require, require_momentum

State = tuple[Tensor, ...]
"""Weights, (P,), and the other tensors of an optimizer."""


class InnerOptimizer(Protocol):
    """The optimizer of the inner loop, in which a student trains on the synthetic set."""

    def start(self, weights: Tensor) -> State:
        """Return the state before the first step, for `weights`, (P,)."""
        ...

    def step(self, state: State, gradient: Tensor, rate: Tensor) -> State:
        """Return the state after one step along `gradient`, (P,), with learning rate `rate`, a scalar tensor.

        `PerStepSGD` takes a pair of learning rate and momentum, (2,), in the place of `rate`.
        """
        ...


@final
@dataclass(frozen=True, kw_only=True)
class InnerSGD(CheckedDataclass):
    """Differentiable SGD with the update of `torch.optim.SGD`: m <- momentum m + g, w <- w - rate m.

    Attributes:
        momentum: Momentum in 0 <= value < 1; 0 needs no momentum buffer.

    Examples:
        >>> import torch
        >>> from ddsdk.training import InnerSGD
        >>> sgd = InnerSGD(momentum=0.5)
        >>> weights, buffer = sgd.step(sgd.start(torch.zeros(2)), torch.ones(2), torch.tensor(0.5))
        >>> weights
        tensor([-0.5000, -0.5000])
    """

    momentum: Momentum = 0.0

    def start(self, weights: Tensor) -> State:
        """Return (weights,), or (weights, zero buffer) with momentum."""
        return (weights, torch.zeros_like(weights)) if self.momentum else (weights,)

    def step(self, state: State, gradient: Tensor, rate: Tensor) -> State:
        """Return the state after one step."""
        if not self.momentum:
            return (state[0] - rate * gradient,)
        buffer = self.momentum * state[1] + gradient
        return state[0] - rate * buffer, buffer


@final
@dataclass(frozen=True)
class PerStepSGD:
    """Differentiable SGD whose momentum is an input of each step, like the learning rate: both may be learned.

    Examples:
        >>> import torch
        >>> from ddsdk.training import PerStepSGD
        >>> sgd = PerStepSGD()
        >>> weights, buffer = sgd.step(sgd.start(torch.zeros(2)), torch.ones(2), torch.tensor([0.5, 0.9]))
        >>> weights
        tensor([-0.5000, -0.5000])
    """

    def start(self, weights: Tensor) -> State:
        """Return (weights, zero buffer)."""
        return weights, torch.zeros_like(weights)

    def step(self, state: State, gradient: Tensor, rate: Tensor) -> State:
        """Return the state after one step; `rate` holds learning rate and momentum, (2,)."""
        require(tuple(rate.shape) == (2,), "rate", "be a pair of rate and momentum", tuple(rate.shape))
        buffer = rate[1] * state[1] + gradient
        return state[0] - rate[0] * buffer, buffer


@final
@dataclass(frozen=True, kw_only=True)
class InnerAdam(CheckedDataclass):
    """Differentiable Adam with epsilon inside the root: w <- w - rate m^ / sqrt(v^ + eps^2).

    `torch.optim.Adam` adds epsilon outside the root. There the derivative of sqrt(0) is infinite for a weight whose
    gradient is zero, and so would be the unrolled gradient.

    Attributes:
        betas: Decay of the first and the second moment, each in 0 <= beta < 1.
        eps: Epsilon inside the root, > 0.

    Examples:
        >>> import torch
        >>> from ddsdk.training import InnerAdam
        >>> adam = InnerAdam()
        >>> len(adam.step(adam.start(torch.zeros(2)), torch.ones(2), torch.tensor(0.1)))
        4
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
        """Return the state after one step."""
        weights, first, second, count = state
        b1, b2 = self.betas
        count = count.detach() + 1
        first = b1 * first + (1 - b1) * gradient
        second = b2 * second + (1 - b2) * gradient.square()
        root = (second / (1 - b2**count) + self.eps**2).sqrt()
        return weights - rate * (first / (1 - b1**count)) / root, first, second, count
