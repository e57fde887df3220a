"""A pool of students of all ages that train on the synthetic set, one at a time."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor, nn

from ddsdk.data import Source
from ddsdk.foundation import derive, generator, require_count, require_rate
from ddsdk.students.fresh import MakeStudent, calibrate, enrol
from ddsdk.synthetic import SyntheticSet
from ddsdk.training import (
    FlatNetwork,
    InnerAdam,
    InnerOptimizer,
    Loss,
    State,
    half_squares,
    micro_batch,
    pieces,
    weight_vector,
)

_ADAM = InnerAdam()


@final
class TrainedPool:
    """One network of a pool at random for each step; after the step this one trains a little on the set.

    A network that has taken `longest` steps of training makes room for a fresh one. Ages are staggered: at the start
    network i of m counts as i/m of the way there, so that they do not all leave together. With `longest` 0 and a pool
    of one, this is a supply of fresh networks.

    Args:
        make_student: Factory of the networks.
        pool: Number of networks. They are part of every snapshot of a run, with their optimizers: Adam has three floats
            for each weight.
        longest: Steps of training after which a network leaves; 0 leaves all untrained.
        lr: Learning rate of the networks.
        most_steps: Largest number of steps of training of a network that was picked; the number is drawn from 1 on.
        batch_size: Images of the set in one step of training.
        loss: Loss of the training: half the squared error of the label rows, as regression on features has it.
        optimizer: Optimizer of a network; its state lives as long as the network.

    References:
        Zhou, Nezhadarya and Ba, "Dataset Distillation using Neural Feature Regression", NeurIPS 2022, arXiv:2206.00719.
    """

    def __init__(
        self,
        make_student: MakeStudent,
        *,
        pool: int = 10,
        longest: int = 100,
        lr: float = 3e-4,
        most_steps: int = 1,
        batch_size: int = 500,
        loss: Loss = half_squares,
        optimizer: InnerOptimizer = _ADAM,
    ) -> None:
        for name, value in (("pool", pool), ("most_steps", most_steps), ("batch_size", batch_size)):
            require_count(name, value)
        require_count("longest", longest, least=0)
        require_rate("lr", lr)
        self._make_student, self._pool, self._longest, self._lr = make_student, pool, longest, lr
        self._most_steps, self._batch_size = most_steps, batch_size
        self._loss, self._optimizer = loss, optimizer
        self._ages: list[int] = []
        # States are replaced and never written to.
        self._states: list[State] = []
        self._at = 0
        self._network: nn.Module | None = None

    def next(self, real: Source, syn: SyntheticSet, rng: torch.Generator) -> nn.Module:
        """Return one network of the pool, as a constant, after the lesson of the one before."""
        if self._network is None:
            self._network = enrol(self._make_student, real, generator("template")).requires_grad_(False)
        if self._states:
            # A state that was read from a file lies in main memory.
            self._states = [tuple(t.to(real.device) for t in state) for state in self._states]
            self._go_on(real, syn, rng)
        else:
            keys = (derive(rng, "first", i) if i else rng for i in range(self._pool))
            self._states = [self._fresh(real, key) for key in keys]
            self._ages = [i * self._longest // self._pool for i in range(self._pool)]
        self._at = int(torch.randint(self._pool, (), generator=derive(rng, "pick")))
        FlatNetwork(self._network).load_(self._states[self._at][0])
        return calibrate(self._network, real, rng)

    def state_dict(self) -> dict[str, Any]:
        """Return weights, optimizers and ages of the pool, and the place of the network that served last."""
        return {"states": [list(s) for s in self._states], "ages": list(self._ages), "at": self._at}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where `state_dict` was taken."""
        self._states = [tuple(s) for s in state["states"]]
        self._ages = list(state["ages"])
        self._at = state["at"]

    def _fresh(self, real: Source, rng: torch.Generator) -> State:
        return self._optimizer.start(weight_vector(enrol(self._make_student, real, rng)))

    def _go_on(self, real: Source, syn: SyntheticSet, rng: torch.Generator) -> None:
        """Train the network that served last, or put a fresh one in its place."""
        at, left = self._at, self._longest - self._ages[self._at]
        steps = int(torch.randint(self._most_steps, (), generator=derive(rng, "steps"))) + 1
        for i in range(min(steps, left)):
            self._states[at] = self._trained(self._states[at], real, syn, derive(rng, "lesson", i))
            self._ages[at] += 1
        if self._ages[at] >= self._longest:
            self._states[at], self._ages[at] = self._fresh(real, rng), 0

    def _trained(self, state: State, real: Source, syn: SyntheticSet, rng: torch.Generator) -> State:
        assert self._network is not None
        flat, weights = FlatNetwork(self._network), state[0].detach().requires_grad_()
        # Statistics of BatchNorm are no part of the state: those that lie there may be another network's.
        calibrate(flat.load_(state[0]), real, derive(rng, "statistics"))
        with torch.no_grad():
            images, labels = syn.mixed(self._batch_size, rng)
        n = len(images)
        gradient = torch.zeros_like(state[0])
        for part in pieces(n, micro_batch(self._network, images.device, n)):
            share: Tensor = self._loss(flat(weights, images[part]), labels[part]) / n
            gradient += torch.autograd.grad(share, weights)[0]
        with torch.no_grad():
            after = self._optimizer.step(state, gradient, gradient.new_tensor(self._lr))
        return tuple(t.detach() for t in after)
