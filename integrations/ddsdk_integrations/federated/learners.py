"""Learners of the server: new weights from the sets of a round, by training on their union or by replaying updates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, final

import torch
from torch import Tensor, nn

import ddsdk as dd
from ddsdk.foundation import PositiveFloat, PositiveInt, check_numbers, derive, require
from ddsdk.networks import Network
from ddsdk.training import FlatNetwork, batch_gradient, train, weight_vector
from ddsdk_integrations.federated.checks import Refusal
from ddsdk_integrations.federated.payload import Contribution
from ddsdk_integrations.federated.pool import Pool, Weighing, pooled
from ddsdk_integrations.federated.task import Task
from ddsdk_integrations.federated.updates import recovered_update, robust_mean


class Learned(NamedTuple):
    """Result of a round.

    Attributes:
        network: Network with the new weights.
        share: Largest share of the weight of a class that one client had; of the mean, for updates.
        influence: Largest share that one could have had; for updates, the distance by which one could have moved their
            mean, in lengths of that mean. 1, or infinity for updates, where nothing smaller can be said.
        pool: Union of the sets; None for updates.
        refused: Sets that turned out to be of no use.
    """

    network: Network
    share: float
    influence: float
    pool: Pool | None = None
    refused: tuple[Refusal, ...] = ()


class Learner(Protocol):
    """Makes new weights of the sets that passed the checks."""

    def __call__(
        self, network: Network, sets: Sequence[Contribution], task: Task, rng: torch.Generator, *, quota: int
    ) -> Learned:
        """Return the new network.

        Args:
            network: Network of the server, which may be changed.
            sets: One set for each client, at least one.
            task: Task that all sides agree on.
            rng: Root of every random number of the round.
            quota: Images of a class that one client may send.
        """
        ...


@final
@dataclass(frozen=True, kw_only=True)
class TrainOnPool:
    """Train on the union of the sets.

    Attributes:
        evaluation: Protocol of the training; its network, number of networks and label form are passed over.
        fresh: Whether each round trains a new network, and not that of the server.
        radius: Largest distance of the weights, after each epoch, from those of the start: sets that were matched
            around these weights say nothing of the rest. None leaves them free.
        weighing: Weight of each set.
    """

    evaluation: dd.Evaluation
    fresh: bool = False
    radius: PositiveFloat | None = None
    weighing: Weighing = field(default_factory=Weighing)

    def __post_init__(self) -> None:
        check_numbers(self)

    def __call__(
        self, network: Network, sets: Sequence[Contribution], task: Task, rng: torch.Generator, *, quota: int
    ) -> Learned:
        """Return the trained network."""
        pool = pooled(sets, task, self.weighing, quota=quota)
        if self.fresh:
            network = task.make(derive(rng, "fresh"))
        batch, began = pool.batch(task), weight_vector(network)
        for _ in train(network, batch, self.evaluation, derive(rng, "train")):
            if self.radius is not None:
                _bring_back(network, began, self.radius)
        network.eval()
        return Learned(network, pool.share, max(pool.influence.values()), pool)


@final
@dataclass(frozen=True, kw_only=True)
class MergedSteps:
    """Go through the batches of all clients in turn, each with the rate that was learned with it, as DOSFL does.

    Attributes:
        passes: Passes through all batches, as many as the clients' recipe has: each step of each has its own rate.
        reach: Largest length of a step, whatever rate came with it.
    """

    passes: PositiveInt = 1
    reach: PositiveFloat = 1.0

    def __post_init__(self) -> None:
        check_numbers(self)

    def __call__(
        self,
        network: Network,
        sets: Sequence[Contribution],
        task: Task,
        rng: torch.Generator,  # noqa: ARG002
        *,
        quota: int,
    ) -> Learned:
        """Return the network after all steps: step k of every client comes before step k + 1 of any."""
        pool = pooled(sets, task, Weighing(), quota=quota)
        steps = [self._steps(one, task) for one in sets]
        network.train()
        for k in range(max(map(len, steps))):
            for mine in steps:
                if k < len(mine):
                    _step(network, *mine[k], self.reach)
        network.eval()
        # The order of steps and the rates are the clients': no share of images bounds what they do.
        return Learned(network, pool.share, 1.0, pool)

    def _steps(self, one: Contribution, task: Task) -> list[tuple[dd.Batch, float]]:
        # A step is of one image of each class of the client, as DD makes them.
        x, size = task.preprocess(one.images), len(torch.unique(one.classes))
        parts = list(zip(torch.split(x, size), torch.split(one.labels, size), strict=True)) * self.passes
        rates = one.rate or (0.01,)
        return [(dd.Batch(*part), rates[k % len(rates)]) for k, part in enumerate(parts)]


@final
@dataclass(frozen=True, kw_only=True)
class AverageUpdates:
    """Replay each client's set on the server's weights, and average the updates; see `robust_mean`.

    Attributes:
        student_steps: Number of steps of the replay, that of the clients' `Encoding`.
        trim: Share of the highest and of the lowest values of each coordinate that is left out.
        cap: Largest length of an update, in median lengths.
    """

    student_steps: PositiveInt = 3
    trim: float = 0.0
    cap: float = 3.0

    def __post_init__(self) -> None:
        check_numbers(self)
        require(0 <= self.trim < 0.5, "trim", "lie in 0 <= value < 0.5", self.trim)
        require(1 <= self.cap < float("inf"), "cap", "be finite and at least 1", self.cap)

    def __call__(
        self,
        network: Network,
        sets: Sequence[Contribution],
        task: Task,
        rng: torch.Generator,  # noqa: ARG002
        *,
        quota: int,  # noqa: ARG002
    ) -> Learned:
        """Return the network with the mean update; one that is not finite is refused."""
        found = {one.node: recovered_update(network, one, task, self.student_steps) for one in sets}
        sound = [update for update in found.values() if bool(torch.isfinite(update).all())]
        wild = [node for node, update in found.items() if not bool(torch.isfinite(update).all())]
        refused = tuple(Refusal(node, 6, "finite", "its update must be finite") for node in wild)
        if not sound:
            return Learned(network, 0.0, 0.0, refused=refused)
        mean, moved = robust_mean(sound, trim=self.trim, cap=self.cap)
        FlatNetwork(network).load_(weight_vector(network) + mean)
        reach = moved / float(mean.norm().clamp_min(1e-12))
        return Learned(network, 1 / len(sound), reach, refused=refused)


def _step(network: Network, batch: dd.Batch, rate: float, reach: float) -> None:
    batch_gradient(network, batch)
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    length = rate * float(torch.nn.utils.get_total_norm(gradients))
    scale = rate * min(1.0, reach / max(length, 1e-12))
    with torch.no_grad():
        for p in network.parameters():
            if p.grad is not None:
                p.sub_(scale * p.grad)


@torch.no_grad()
def _bring_back(network: nn.Module, began: Tensor, radius: float) -> None:
    moved = weight_vector(network) - began
    length = float(moved.norm())
    if length > radius:
        FlatNetwork(network).load_(began + moved * (radius / length))
