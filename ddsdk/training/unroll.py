"""Unrolled training: the weights of a student as a differentiable function of its training data.

`full_graph` keeps the graph of every step. `constant_memory` computes the same gradient and keeps the optimizer state
of each step alone: its backward pass rebuilds the graph of one step at a time, from the last step to the first.
`checkpointed` keeps the state of every n-th step. `truncated`, the gradient of TESLA, treats the weights of each step
as constants, and so drops the second-order path through earlier steps.

References:
    Maclaurin et al., "Gradient-based Hyperparameter Optimization through Reversible Learning", ICML 2015.
    Cui et al., "Scaling Up Dataset Distillation to ImageNet-1K with Constant Memory", ICML 2023, arXiv:2211.10586.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, final

import torch
from torch import Tensor

from ddsdk.foundation import generator, require, require_count, seeded_layers
from ddsdk.training.optimizers import InnerOptimizer, State

Path = tuple[Tensor, ...]
"""Weights after each step, (P,) each. The backward pass skips those that the loss does not use."""

StepLoss = Callable[[int, Tensor, Sequence[Tensor]], Tensor]
"""`(k, weights, inputs) -> scalar`: loss of step k. It must depend on its arguments alone, because the backward pass
computes it again; random numbers are derived from k."""


class Unroll(Protocol):
    """A training loop through which the gradient of a loss on the trained weights passes."""

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
        """Return the weights after each of `steps` steps, with graph to `start`, `inputs` and `rate`.

        Args:
            loss: Loss of each step.
            start: Weights before the first step, (P,).
            inputs: Tensors on which the loss depends, such as images and label rows.
            rate: Learning rate: a scalar, one for each step, or pairs with a momentum, (steps, 2), for `PerStepSGD`.
                Values for each step include the steps of the burn-in.
            steps: Number of steps with a gradient, at least 1.
            optimizer: Optimizer of the student.
            burn_in: Number of steps before these, without a gradient. They are part of the training: the first step
                of the path has the number `burn_in`, and the optimizer state goes on.
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
    """Unroll with the graphs of all steps in memory: exact gradient, memory grows with `steps`.

    Arguments and result are those of `Unroll`.

    Returns:
        The weights after each step, (P,) each.

    Examples:
        >>> import torch
        >>> from ddsdk.training import InnerSGD, full_graph
        >>> start, target, rate = torch.zeros(2), torch.ones(2, requires_grad=True), torch.tensor(0.5)
        >>> loss = lambda k, weights, inputs: (weights - inputs[0]).square().sum() / 2
        >>> *_, end = full_graph(loss, start, [target], rate, steps=3, optimizer=InnerSGD())
        >>> torch.autograd.grad(end.sum(), target)[0]
        tensor([0.8750, 0.8750])
    """
    run = _Run(loss, steps, optimizer, burn_in)
    weights, *moments = run.begin(start, inputs, rate)
    # The loss needs a graph to the weights even if `start` has none.
    state = (weights if weights.requires_grad else weights.detach().requires_grad_(), *moments)
    with torch.enable_grad():
        return tuple(after[0] for after in run.block(0, steps, state, inputs, rate))


@final
@dataclass(frozen=True)
class StepReplay:
    """Unroll that stores optimizer states and rebuilds the graphs of the steps in the backward pass.

    Attributes:
        every: Number of steps between two stored states, at least 1.
        exact: True for the exact gradient; false for weights that are constants in the gradient of each step's loss.
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
        """Return the weights after each of `steps` steps, see `Unroll`."""
        run = _Run(loss, steps, optimizer, burn_in, self.exact, self.every)
        path: Path = _Replayed.apply(run, start, rate, *inputs)
        return path


constant_memory = StepReplay()
"""Unroll with one stored state for each step: exact gradient, for one more gradient of the loss at each step."""

truncated = StepReplay(exact=False)
"""Unroll as `constant_memory`, with weights that are constants in the gradient of each step's loss, as in TESLA."""


def checkpointed(every: int) -> Unroll:
    """Return an `Unroll` that stores the state of every n-th step, with the exact gradient.

    Its backward pass has the graph of n steps in memory. It is as fast as `constant_memory`, which has n = 1. Memory is
    least for n near the square root of the number of steps.

    Args:
        every: Number of steps n between two stored states, at least 1.

    Examples:
        >>> from ddsdk.training import checkpointed
        >>> checkpointed(4).every
        4
    """
    require_count("every", every)
    return StepReplay(every=every)


@dataclass(frozen=True)
class _Run:
    loss: StepLoss
    steps: int
    optimizer: InnerOptimizer
    burn_in: int
    exact: bool = True
    every: int = 1
    # Layers such as dropout draw the same numbers when the backward pass computes the loss of a step again.
    seed: int = field(default_factory=torch.initial_seed)

    def begin(self, start: Tensor, inputs: Sequence[Tensor], rate: Tensor) -> State:
        """Return the state after the burn-in."""
        require(self.steps >= 1, "steps", "be at least 1", self.steps)
        require(self.burn_in >= 0, "burn_in", "be at least 0", self.burn_in)
        total, shape = self.burn_in + self.steps, tuple(rate.shape)
        require(shape in ((), (total,), (total, 2)), "rate", f"have shape (), ({total},) or ({total}, 2)", shape)
        state = self.optimizer.start(start)
        constants = [x.detach() for x in inputs]
        for k in range(-self.burn_in, 0):
            state = self.stepped(k, state, constants, rate.detach())
        return state

    def stepped(self, k: int, state: State, inputs: Sequence[Tensor], rate: Tensor) -> State:
        """Return the state after step k, without a graph."""
        with torch.enable_grad():
            after = self._step(k, state, inputs, rate, graph=False)
        return tuple(t.detach() for t in after)

    def block(self, first: int, end: int, state: State, inputs: Sequence[Tensor], rate: Tensor) -> list[State]:
        """Return the states after each of the steps `first` to `end` - 1, with graph."""
        states = [state]
        for k in range(first, end):
            states.append(self._step(k, states[-1], inputs, rate, graph=True))
        return states[1:]

    def _step(self, k: int, state: State, inputs: Sequence[Tensor], rate: Tensor, *, graph: bool) -> State:
        number = self.burn_in + k
        weights = state[0] if self.exact and graph else state[0].detach().requires_grad_()
        with seeded_layers(generator(self.seed, "unroll", number)):
            loss = self.loss(number, weights, inputs)
        (gradient,) = torch.autograd.grad(loss, weights, create_graph=graph)
        return self.optimizer.step(state, gradient, rate[number] if rate.ndim else rate)


class _Replayed(torch.autograd.Function):
    """The autograd function of `StepReplay`: no graph forward, the graph of one block of steps at a time backward."""

    @staticmethod
    def forward(ctx: Any, run: _Run, start: Tensor, rate: Tensor, *inputs: Tensor) -> Path:  # noqa: ANN401
        state = run.begin(start.detach(), inputs, rate)
        constants = [x.detach() for x in inputs]
        checkpoints, path = {}, []
        for k in range(run.steps):
            if k % run.every == 0:
                checkpoints[k] = state
            state = run.stepped(k, state, constants, rate.detach())
            # A second tensor on the same memory. An output carries the graph, which holds ctx, so a checkpoint that was
            # an output would be a reference cycle.
            path.append(state[0].detach())
        ctx.run, ctx.checkpoints = run, checkpoints
        ctx.save_for_backward(rate, *inputs)
        ctx.set_materialize_grads(False)
        return tuple(path)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *adjoints: Tensor | None) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        run: _Run = ctx.run
        needed = ctx.needs_input_grad[2:]
        saved = zip(ctx.saved_tensors, needed, strict=True)
        rate, *inputs = arguments = [t.detach().requires_grad_(need) for t, need in saved]
        learned = [t for t in arguments if t.requires_grad]
        totals = [torch.zeros_like(t) for t in learned]
        # Adjoints of the state before the following block. The last block has none, because the path returns weights
        # alone and not the other tensors of the optimizer state.
        state_adjoints: list[Tensor | None] = []
        for first, checkpoint in reversed(ctx.checkpoints.items()):
            state = tuple(t.detach().requires_grad_() for t in checkpoint)
            end = min(first + run.every, run.steps)
            with torch.enable_grad():
                states = run.block(first, end, state, inputs, rate)
                outputs = [(s[0], adjoints[k]) for k, s in enumerate(states, first)]
                outputs += zip(states[-1], state_adjoints, strict=False)
                used = [(t, adjoint) for t, adjoint in outputs if adjoint is not None and t.requires_grad]
                if not used:
                    continue
                gradients = torch.autograd.grad(
                    [t for t, _ in used], [*state, *learned], [adjoint for _, adjoint in used], allow_unused=True
                )
            state_adjoints = list(gradients[: len(state)])
            for total, gradient in zip(totals, gradients[len(state) :], strict=True):
                if gradient is not None:
                    total += gradient
        # No gradient passes through the burn-in, and so none to `start`.
        start_adjoint = None if run.burn_in or not state_adjoints else state_adjoints[0]
        sums = iter(totals)
        return None, start_adjoint, *(next(sums) if need else None for need in needed)
