"""Training that can be differentiated: the weights of a student as a function of its training data.

`full_graph` keeps the graph of every step. `constant_memory` gives the same gradient and keeps the states of the
optimizer alone: the backward pass rebuilds the graph of one step at a time and carries the adjoint from the last step
to the first. `checkpointed` keeps every so many states. `truncated`, which TESLA computes, drops how a change of the
weights changes later gradients.

References:
    Maclaurin et al., "Gradient-based Hyperparameter Optimization through Reversible Learning", ICML 2015.
    Cui et al., "Scaling Up Dataset Distillation to ImageNet-1K with Constant Memory", ICML 2023, arXiv:2211.10586.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, final

import torch
from torch import Tensor

from ddsdk.foundation import require, require_count
from ddsdk.training.optimizers import InnerOptimizer, State

Path = tuple[Tensor, ...]
"""Weights after each step, (P,) each. Those that are not used cost nothing."""

StepLoss = Callable[[int, Tensor, Sequence[Tensor]], Tensor]
"""`(k, weights, inputs) -> scalar`: loss of step k. It must depend on its arguments alone, so that it can be computed
again: random numbers come from k."""


class Unroll(Protocol):
    """A way to train a student so that its weights have a gradient."""

    def __call__(
        self,
        loss: StepLoss,
        start: Tensor,
        inputs: Sequence[Tensor],
        rate: Tensor,
        *,
        steps: int,
        optimizer: InnerOptimizer,
        burn_in: int = 0,
    ) -> Path:
        """Return the weights after each of `steps`, with graph to `start`, `inputs` and `rate`; the end is the last.

        Args:
            loss: Loss of each step.
            start: Weights before the first step, (P,).
            inputs: Tensors on which `loss` depends, such as images and labels.
            rate: Learning rate: a scalar, one for each step, or pairs with a momentum, (steps, 2), for an optimizer
                that takes them. Steps of the burn-in have theirs too.
            steps: Number of steps with a gradient, at least 1.
            optimizer: Optimizer of the student.
            burn_in: Steps before these, whose end is a constant: nothing has a gradient through them. They count: the
                first step of the path has the number `burn_in`, and the optimizer remembers them.
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
    burn_in: int = 0,
) -> Path:
    """Train with the graph of every step kept: exact, and memory grows with `steps`. See `Unroll`."""
    run = _Run(loss, steps, optimizer, burn_in)
    weights, *moments = run.begin(start, inputs, rate)
    # The gradient of the loss needs a graph to the weights also where `start` has none.
    state = (weights if weights.requires_grad else weights.detach().requires_grad_(), *moments)
    with torch.enable_grad():
        return tuple(after[0] for after in run.block(0, steps, state, inputs, rate))


@final
@dataclass(frozen=True)
class Replay:
    """Training that keeps the states of the optimizer, and builds the graphs of its steps again. See `Unroll`.

    Attributes:
        every: Steps between two states that are kept.
        exact: Whether the gradient passes through the weights at which later gradients are taken.
    """

    every: int = 1
    exact: bool = True

    def __call__(
        self,
        loss: StepLoss,
        start: Tensor,
        inputs: Sequence[Tensor],
        rate: Tensor,
        *,
        steps: int,
        optimizer: InnerOptimizer,
        burn_in: int = 0,
    ) -> Path:
        """Return the weights after each of `steps`."""
        run = _Run(loss, steps, optimizer, burn_in, self.exact, self.every)
        path: Path = _Replayed.apply(run, start, rate, *inputs)
        return path


constant_memory = Replay()
"""Train with one state kept for each step: exact, at one more gradient a step. See `Unroll`."""

truncated = Replay(exact=False)
"""Train as `constant_memory`, with a gradient that takes each step's weights for constants. See `Unroll`."""


def checkpointed(every: int) -> Unroll:
    """Return an `Unroll` that keeps every so many states, and the graph of as many steps at a time: exact.

    It is as fast as `constant_memory`, which is the same with `every` 1. About the square root of the steps needs the
    least memory.

    Args:
        every: Steps between two states that are kept, at least 1.
    """
    require_count("every", every)
    return Replay(every=every)


@dataclass(frozen=True)
class _Run:
    loss: StepLoss
    steps: int
    optimizer: InnerOptimizer
    burn_in: int
    exact: bool = True
    every: int = 1

    def begin(self, start: Tensor, inputs: Sequence[Tensor], rate: Tensor) -> State:
        """Return the state before the first step that has a gradient."""
        require(self.steps >= 1, "steps", "be at least 1", self.steps)
        require(self.burn_in >= 0, "burn_in", "be at least 0", self.burn_in)
        total, found = self.burn_in + self.steps, tuple(rate.shape)
        require(found in ((), (total,), (total, 2)), "rate", f"have shape (), ({total},) or ({total}, 2)", found)
        state = self.optimizer.start(start)
        fixed = [x.detach() for x in inputs]
        for k in range(-self.burn_in, 0):
            state = self.moved(k, state, fixed, rate.detach())
        return state

    def moved(self, k: int, state: State, inputs: Sequence[Tensor], rate: Tensor) -> State:
        """Return the state after step k, without a graph."""
        with torch.enable_grad():
            after = self._step(k, state, inputs, rate, graph=False)
        return tuple(t.detach() for t in after)

    def block(self, first: int, end: int, state: State, inputs: Sequence[Tensor], rate: Tensor) -> list[State]:
        """Return the states after the steps from `first` up to `end`, with graph."""
        states = [state]
        for k in range(first, end):
            states.append(self._step(k, states[-1], inputs, rate, graph=True))
        return states[1:]

    def _step(self, k: int, state: State, inputs: Sequence[Tensor], rate: Tensor, *, graph: bool) -> State:
        number = self.burn_in + k
        weights = state[0] if self.exact and graph else state[0].detach().requires_grad_()
        (gradient,) = torch.autograd.grad(self.loss(number, weights, inputs), weights, create_graph=graph)
        return self.optimizer.step(state, gradient, rate[number] if rate.ndim else rate)


class _Replayed(torch.autograd.Function):
    """Forward without a graph; backward the graph of one block of steps at a time."""

    @staticmethod
    def forward(ctx: Any, run: _Run, start: Tensor, rate: Tensor, *inputs: Tensor) -> Path:  # noqa: ANN401
        state = run.begin(start.detach(), inputs, rate)
        fixed = [x.detach() for x in inputs]
        kept, path = {}, []
        for k in range(run.steps):
            if k % run.every == 0:
                kept[k] = state
            state = run.moved(k, state, fixed, rate.detach())
            # Another tensor over the same numbers: the graph of the path must not hold what is kept for it.
            path.append(state[0].detach())
        ctx.run, ctx.kept = run, kept
        ctx.save_for_backward(rate, *inputs)
        ctx.set_materialize_grads(False)
        return tuple(path)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *adjoints: Tensor | None) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        run: _Run = ctx.run
        needed = ctx.needs_input_grad[2:]
        saved = zip(ctx.saved_tensors, needed, strict=True)
        rate, *inputs = everything = [t.detach().requires_grad_(need) for t, need in saved]
        wanted = [t for t in everything if t.requires_grad]
        totals = [torch.zeros_like(t) for t in wanted]
        # Only weights are handed out: the moments of the last state have no adjoint.
        carried: list[Tensor | None] = []
        for first, kept in reversed(ctx.kept.items()):
            state = tuple(t.detach().requires_grad_() for t in kept)
            end = min(first + run.every, run.steps)
            with torch.enable_grad():
                after = run.block(first, end, state, inputs, rate)
                ends = [(s[0], adjoints[k]) for k, s in enumerate(after, first)]
                ends += zip(after[-1], carried, strict=False)
                known = [(t, a) for t, a in ends if a is not None and t.requires_grad]
                if not known:
                    continue
                found = torch.autograd.grad(
                    [t for t, _ in known], [*state, *wanted], [a for _, a in known], allow_unused=True
                )
            carried = list(found[: len(state)])
            for total, part in zip(totals, found[len(state) :], strict=True):
                if part is not None:
                    total += part
        beginning = None if run.burn_in or not carried else carried[0]
        sums = iter(totals)
        return None, beginning, *(next(sums) if need else None for need in needed)
