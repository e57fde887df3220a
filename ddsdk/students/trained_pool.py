"""A pool of students of different ages that train on the synthetic set, one at a time."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor, nn

from ddsdk.data import Source
from ddsdk.foundation import derive, generator, require_count, require_positive
from ddsdk.students.fresh import MakeStudent, calibrate, prepare_student
from ddsdk.students.supply import Unchanging
from ddsdk.synthetic import SyntheticSet
from ddsdk.training import (
    FlatNetwork,
    InnerAdam,
    InnerOptimizer,
    Loss,
    State,
    half_squared_error,
    micro_batch,
    pieces,
    weight_vector,
)

_ADAM = InnerAdam()


@final
class TrainedPool:
    """A supply of a random network of a pool; before the next step this network trains on the synthetic set.

    A network with `longest` training steps is replaced by one with random weights. Ages are staggered: at the first
    step network i of m counts as having i/m of these steps, so that the networks are replaced at different times. With
    `longest` 0 and a pool of one, every step has a new network with random weights.

    Args:
        make_student: Factory of the networks.
        pool: Number of networks. Memory and checkpoints of a run hold them with their optimizers; Adam takes three
            floats for each weight.
        longest: Number of training steps after which a network is replaced; 0 leaves all networks untrained.
        lr: Learning rate of the networks.
        most_steps: Largest number of training steps between two steps; the number is uniform from 1 to it.
        batch_size: Images of the synthetic set in one training step.
        loss: Training loss, summed over a batch; by default half the squared error of the label rows.
        optimizer: Optimizer of the networks; its state is kept as long as the network.

    References:
        Zhou, Nezhadarya and Ba, "Dataset Distillation using Neural Feature Regression", NeurIPS 2022, arXiv:2206.00719.

    Examples:
        >>> import dataclasses, ddsdk
        >>> make_student = ddsdk.network_factory("convnet", (1, 8, 8), 10, width=4)
        >>> supply = ddsdk.students.TrainedPool(make_student, pool=3, longest=5)
        >>> swap = lambda plan: dataclasses.replace(plan, students=supply)
        >>> len(ddsdk.distill(ddsdk.DM(ipc=1, steps=2), ddsdk.load("digits"), transform=swap))
        10
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
        loss: Loss = half_squared_error,
        optimizer: InnerOptimizer = _ADAM,
    ) -> None:
        for name, value in (("pool", pool), ("most_steps", most_steps), ("batch_size", batch_size)):
            require_count(name, value)
        require_count("longest", longest, least=0)
        require_positive("lr", lr)
        self._make_student, self._pool, self._longest, self._lr = make_student, pool, longest, lr
        self._most_steps, self._batch_size = most_steps, batch_size
        self._loss, self._optimizer = loss, optimizer
        self._ages: list[int] = []
        # States are replaced and never changed in place, so that snapshots of a run share their tensors.
        self._states: list[State] = []
        self._position = 0
        self._network: nn.Module | None = None

    def next(self, real: Source, syn: SyntheticSet, rng: torch.Generator) -> nn.Module:
        """Return a random network of the pool, with constant weights, after the training of the previous one."""
        if self._network is None:
            self._network = prepare_student(self._make_student, real, generator("template")).requires_grad_(False)
        if self._states:
            # A state that was read from a file is on the CPU.
            self._states = [tuple(t.to(real.device) for t in state) for state in self._states]
            self._train_previous(real, syn, rng)
        else:
            keys = (derive(rng, "first", i) if i else rng for i in range(self._pool))
            self._states = [self._new_state(real, key) for key in keys]
            self._ages = [i * self._longest // self._pool for i in range(self._pool)]
        self._position = int(torch.randint(self._pool, (), generator=derive(rng, "pick")))
        FlatNetwork(self._network).load_(self._states[self._position][0])
        return calibrate(self._network, real, rng)

    def state_dict(self) -> dict[str, Any]:
        """Return the weights, optimizer states and ages of the pool, and the position of the last network."""
        return {"states": Unchanging(list(s) for s in self._states), "ages": list(self._ages), "at": self._position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from the result of `state_dict`."""
        self._states = [tuple(s) for s in state["states"]]
        self._ages = list(state["ages"])
        self._position = state["at"]

    def _new_state(self, real: Source, rng: torch.Generator) -> State:
        return self._optimizer.start(weight_vector(prepare_student(self._make_student, real, rng)))

    def _train_previous(self, real: Source, syn: SyntheticSet, rng: torch.Generator) -> None:
        """Train the network of the previous step, or replace it by a new one at its largest age."""
        position, remaining = self._position, self._longest - self._ages[self._position]
        steps = int(torch.randint(self._most_steps, (), generator=derive(rng, "steps"))) + 1
        for i in range(min(steps, remaining)):
            self._states[position] = self._trained(self._states[position], real, syn, derive(rng, "lesson", i))
            self._ages[position] += 1
        if self._ages[position] >= self._longest:
            self._states[position], self._ages[position] = self._new_state(real, rng), 0

    def _trained(self, state: State, real: Source, syn: SyntheticSet, rng: torch.Generator) -> State:
        assert self._network is not None
        flat, weights = FlatNetwork(self._network), state[0].detach().requires_grad_()
        # A state has no BatchNorm statistics, and those in the shared network may be of another member of the pool.
        calibrate(flat.load_(state[0]), real, derive(rng, "statistics"))
        with torch.no_grad():
            images, labels = syn.mixed(self._batch_size, rng)
        n = len(images)
        gradient = torch.zeros_like(state[0])
        for part in pieces(n, micro_batch(self._network, images.device, n)):
            part_loss: Tensor = self._loss(flat(weights, images[part]), labels[part]) / n
            gradient += torch.autograd.grad(part_loss, weights)[0]
        with torch.no_grad():
            new_state = self._optimizer.step(state, gradient, gradient.new_tensor(self._lr))
        return tuple(t.detach() for t in new_state)
