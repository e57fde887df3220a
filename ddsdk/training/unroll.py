"""Unrolled training: the weights of a student as a differentiable function of its training data.

`full_graph` keeps the graph of every step. `constant_memory` computes the same gradient. It keeps the graphs of as many
last steps as fit into a fixed number of bytes, and of each earlier step the optimizer state alone: its backward pass
rebuilds the graph of one of them at a time, from the last one to the first. `checkpointed` keeps the state of every
n-th earlier step. `truncated`, the gradient of TESLA, treats the weights of each step as constants, and so drops the
second-order path through earlier steps.

References:
    Maclaurin et al., "Gradient-based Hyperparameter Optimization through Reversible Learning", ICML 2015.
    Cui et al., "Scaling Up Dataset Distillation to ImageNet-1K with Constant Memory", ICML 2023, arXiv:2211.10586.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, final

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from ddsdk.foundation import generator, require, require_count, seeded_layers
from ddsdk.training.micro import may_keep_graphs
from ddsdk.training.optimizers import InnerOptimizer, State

Path = tuple[Tensor, ...]
"""Weights after each step, (P,) each. The backward pass skips those that the loss does not use."""

StepLoss = Callable[[int, Tensor, Sequence[Tensor]], Tensor]
"""`(k, weights, inputs) -> scalar`: loss of step k. It must depend on its arguments alone, because the backward pass
computes it again; random numbers are derived from k."""

GRAPH_BYTES = 2**30
"""Bytes for kept graphs. A constant, and not the memory that is free, so that runs on all machines take one path."""


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
    state = run.begin(start, inputs, rate)
    with torch.enable_grad():
        return tuple(after[0] for after in run.block(0, steps, state, inputs, rate))


@final
@dataclass(frozen=True)
class StepReplay:
    """Unroll that keeps the graphs of the last steps, and rebuilds those of the earlier steps in the backward pass.

    The tensors that the graph of the first step stores are measured, and their bytes give the number of graphs that
    fit. Kept and rebuilt graphs have equal gradients up to rounding.

    Attributes:
        every: Number of steps between two stored states of the earlier steps, at least 1.
        exact: True for the exact gradient; false for weights that are constants in the gradient of each step's loss.
        graph_bytes: Number of bytes for the graphs of the last steps, at least 0; with 0 the graphs of all steps are
            rebuilt.
    """

    every: int = 1
    exact: bool = True
    graph_bytes: int = GRAPH_BYTES

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
        state, kept = run.begin(start, inputs, rate), 0
        if torch.is_grad_enabled() and any(t.requires_grad for t in (state[0], rate, *inputs)):
            states, size = _with_graph_size(lambda: run.block(0, 1, state, inputs, rate), [*state, rate, *inputs])
            kept = min(steps, self.graph_bytes // max(1, size))
            kept = kept if kept and may_keep_graphs() else 0
        else:
            states = [run.stepped(0, state, inputs, rate)]
        path: list[Tensor] = []
        if kept < steps:
            # This drops the graph of the first step, before graphs are kept.
            states = [tuple(t.detach() for t in states[0])]
            replay = _Replay(run, steps - kept, tuple(t.detach() for t in state), states[0])
            outputs = _Replayed.apply(replay, state[0], rate, *inputs)
            path, moments = list(outputs[: replay.steps]), outputs[replay.steps :]
            states = [(path.pop(), *moments)]
        states += run.block(steps - kept if kept < steps else 1, steps, states[0], inputs, rate)
        return *path, *(after[0] for after in states)


constant_memory = StepReplay()
"""Unroll whose memory does not grow with the number of steps: exact gradient, for one more gradient of the loss at each
step whose graph was not kept."""

truncated = StepReplay(exact=False)
"""Unroll as `constant_memory`, with weights that are constants in the gradient of each step's loss, as in TESLA."""


def checkpointed(every: int) -> Unroll:
    """Return an `Unroll` that stores the state of every n-th step whose graph is not kept, with the exact gradient.

    Its backward pass has the graph of n of these steps in memory. It is as fast as `constant_memory`, which has n = 1.
    Memory is least for n near the square root of their number.

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
        # The loss needs a graph to the weights even if the start has none.
        weights = state[0]
        if not (self.exact and graph and weights.requires_grad):
            weights = weights.detach().requires_grad_()
        with seeded_layers(generator(self.seed, "unroll", number)):
            loss = self.loss(number, weights, inputs)
        (gradient,) = torch.autograd.grad(loss, weights, create_graph=graph)
        return self.optimizer.step(state, gradient, rate[number] if rate.ndim else rate)


def _memory(tensor: Tensor) -> tuple[int, int]:
    """Return the address and the bytes of the memory that holds a tensor."""
    try:
        storage = tensor.untyped_storage()
        return storage.data_ptr(), storage.nbytes()
    except RuntimeError:
        # A subclass that wraps another tensor has no memory of its own.
        return id(tensor), tensor.numel() * tensor.element_size()


def _with_graph_size(compute: Callable[[], list[State]], known: Sequence[Tensor]) -> tuple[list[State], int]:
    """Return states and the bytes of the tensors that their graph stores, without those of `known`."""
    shared, stored = {_memory(t)[0] for t in known}, {}

    def pack(tensor: Tensor) -> Tensor:
        # An output of a node that the node itself holds would be a reference cycle.
        detached = tensor.detach()
        if tensor.layout is torch.strided:
            address, size = _memory(tensor)
            if address not in shared:
                # Tensors are held until they are counted, so that no address is used twice.
                stored[address] = detached, tensor, size
        return detached

    with suppress(RuntimeError), saved_tensors_hooks(pack, lambda tensor: tensor):
        states = compute()
        size = sum(size for *_, size in stored.values())
        stored.clear()
        return states, size
    # A transform of torch.func in the loss refuses hooks. Without a measured size no graph is kept. Other errors come
    # again in this call.
    stored.clear()
    return compute(), sys.maxsize


class _Replay(NamedTuple):
    """The first `steps` steps of a run, with the states before and after the first one, without graph."""

    run: _Run
    steps: int
    before: State
    after: State


class _Replayed(torch.autograd.Function):
    """Steps without graph forward, and the graph of one block of steps at a time backward.

    Outputs are the weights after each step, and the other tensors of the last state.
    """

    @staticmethod
    def forward(ctx: Any, replay: _Replay, start: Tensor, rate: Tensor, *inputs: Tensor) -> State:  # noqa: ANN401, ARG004
        run, constants = replay.run, [x.detach() for x in inputs]
        checkpoints, path, state = {0: replay.before}, [replay.after[0].detach()], replay.after
        for k in range(1, replay.steps):
            if k % run.every == 0:
                checkpoints[k] = state
            state = run.stepped(k, state, constants, rate.detach())
            # A second tensor on the same memory. An output carries the graph, which holds ctx, so a checkpoint that was
            # an output would be a reference cycle.
            path.append(state[0].detach())
        ctx.run, ctx.steps, ctx.checkpoints = run, replay.steps, checkpoints
        ctx.save_for_backward(rate, *inputs)
        ctx.set_materialize_grads(False)
        return *path, *(t.detach() for t in state[1:])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *adjoints: Tensor | None) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        run: _Run = ctx.run
        needed = ctx.needs_input_grad[2:]
        saved = zip(ctx.saved_tensors, needed, strict=True)
        rate, *inputs = arguments = [t.detach().requires_grad_(need) for t, need in saved]
        learned = [t for t in arguments if t.requires_grad]
        totals = [torch.zeros_like(t) for t in learned]
        # Adjoints of the state before the following block. At the last state the path has the adjoint of the weights.
        state_adjoints: list[Tensor | None] = [None, *adjoints[ctx.steps :]]
        for first, checkpoint in reversed(ctx.checkpoints.items()):
            state = tuple(t.detach().requires_grad_() for t in checkpoint)
            end = min(first + run.every, ctx.steps)
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
        sums = iter(totals)
        return None, state_adjoints[0], *(next(sums) if need else None for need in needed)
