"""Training that can be differentiated: where a student ends, as a function of what it trained on.

`full_graph` is the plain way: it keeps the graph of every step. `constant_memory` gives the same gradient and keeps
the states of the optimizer alone: the backward pass rebuilds the graph of one step at a time and carries the adjoint
from the last step to the first. `truncated` costs as much as `constant_memory` and drops how a change of the weights
changes later gradients; it is what TESLA computes.

References:
    Maclaurin et al., "Gradient-based Hyperparameter Optimization through Reversible Learning", ICML 2015.
    Cui et al., "Scaling Up Dataset Distillation to ImageNet-1K with Constant Memory", ICML 2023, arXiv:2211.10586.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ddsdk.errors import require
from ddsdk.inner.optimizers import InnerOptimizer, State

__all__ = ["StepLoss", "Unroll", "constant_memory", "full_graph", "truncated"]

StepLoss = Callable[[int, Tensor, Sequence[Tensor]], Tensor]
"""`(k, weights, inputs) -> scalar`: what step k descends. It must depend on its arguments alone, so that it can be
computed again: random numbers come from k."""


class Unroll(Protocol):
    """A way to train a student so that its last weights have a gradient."""

    def __call__(
        self,
        loss: StepLoss,
        start: Tensor,
        inputs: Sequence[Tensor],
        rate: Tensor,
        *,
        steps: int,
        optimizer: InnerOptimizer,
    ) -> Tensor:
        """Return the weights after `steps`, (P,), with graph to `start`, `inputs` and `rate`.

        Args:
            loss: What each step descends.
            start: Weights before the first step, (P,).
            inputs: Tensors that `loss` depends on, such as images and labels.
            rate: Learning rate: a scalar, or one for each step, (steps,).
            steps: At least 1.
            optimizer: How the student steps.
        """
        ...


def full_graph(
    loss: StepLoss,
    start: Tensor,
    inputs: Sequence[Tensor],
    rate: Tensor,
    *,
    steps: int,
    optimizer: InnerOptimizer,
) -> Tensor:
    """Train with the graph of every step kept: exact, and memory grows with `steps`. See `Unroll`."""
    run = _Run(loss, steps, optimizer, exact=True)
    run.check(rate)
    # The gradient of the loss needs a graph to the weights also where nobody asks for that of `start`.
    state = optimizer.start(start if start.requires_grad else start.detach().requires_grad_())
    with torch.enable_grad():
        for k in range(steps):
            state = run.step(k, state, inputs, _rate_at(rate, k), graph=True)
    return state[0]


def constant_memory(
    loss: StepLoss,
    start: Tensor,
    inputs: Sequence[Tensor],
    rate: Tensor,
    *,
    steps: int,
    optimizer: InnerOptimizer,
) -> Tensor:
    """Train with one state kept for each step: exact, at one more gradient a step. See `Unroll`."""
    return _replayed(_Run(loss, steps, optimizer, exact=True), start, inputs, rate)


def truncated(
    loss: StepLoss,
    start: Tensor,
    inputs: Sequence[Tensor],
    rate: Tensor,
    *,
    steps: int,
    optimizer: InnerOptimizer,
) -> Tensor:
    """Train as `constant_memory`, with a gradient that takes each step's weights for constants. See `Unroll`."""
    return _replayed(_Run(loss, steps, optimizer, exact=False), start, inputs, rate)


@dataclass(frozen=True)
class _Run:
    loss: StepLoss
    steps: int
    optimizer: InnerOptimizer
    exact: bool

    def check(self, rate: Tensor) -> None:
        require(self.steps >= 1, "steps", "be at least 1", self.steps)
        allowed = ((), (self.steps,))
        require(tuple(rate.shape) in allowed, "rate", f"have shape () or ({self.steps},)", tuple(rate.shape))

    def step(self, k: int, state: State, inputs: Sequence[Tensor], rate: Tensor, *, graph: bool) -> State:
        weights = state[0] if self.exact and graph else state[0].detach().requires_grad_()
        (gradient,) = torch.autograd.grad(self.loss(k, weights, inputs), weights, create_graph=graph)
        return self.optimizer.step(state, gradient, rate)


def _rate_at(rate: Tensor, k: int) -> Tensor:
    return rate[k] if rate.ndim else rate


def _replayed(run: _Run, start: Tensor, inputs: Sequence[Tensor], rate: Tensor) -> Tensor:
    run.check(rate)
    end: Tensor = _Replayed.apply(run, start, rate, *inputs)
    return end


class _Replayed(torch.autograd.Function):
    """Forward without a graph; backward one step's graph at a time."""

    @staticmethod
    def forward(ctx: Any, run: _Run, start: Tensor, rate: Tensor, *inputs: Tensor) -> Tensor:  # noqa: ANN401
        state = run.optimizer.start(start.detach())
        states = []
        fixed = [x.detach() for x in inputs]
        with torch.enable_grad():
            for k in range(run.steps):
                states.append(state)
                moved = run.step(k, state, fixed, _rate_at(rate.detach(), k), graph=False)
                state = tuple(t.detach() for t in moved)
        ctx.run, ctx.states = run, states
        ctx.save_for_backward(rate, *inputs)
        return state[0]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, adjoint: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        run: _Run = ctx.run
        rate, *inputs = (t.detach().requires_grad_() for t in ctx.saved_tensors)
        wanted = [rate, *inputs]
        totals = [torch.zeros_like(t) for t in wanted]
        carried: list[Tensor] = [adjoint]
        for k in reversed(range(run.steps)):
            state = tuple(t.detach().requires_grad_() for t in ctx.states[k])
            with torch.enable_grad():
                after = run.step(k, state, inputs, _rate_at(rate, k), graph=True)
                # Only the weights of the last state are handed out: its moments have no adjoint.
                carried += [torch.zeros_like(t) for t in after[len(carried) :]]
                ends = [(t, a) for t, a in zip(after, carried, strict=True) if t.requires_grad]
                found = torch.autograd.grad(
                    [t for t, _ in ends], [*state, *wanted], [a for _, a in ends], allow_unused=True
                )
            carried = [
                torch.zeros_like(t) if g is None else g
                for g, t in zip(found[: len(state)], state, strict=True)
            ]
            for total, part in zip(totals, found[len(state) :], strict=True):
                if part is not None:
                    total += part
        return None, carried[0], totals[0], *totals[1:]
