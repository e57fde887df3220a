"""Learning rules of the server: new weights from the clients' sets, by training on them or by averaging updates."""

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
from ddsdk_integrations.federated.pool import Pool, PoolWeights, pooled
from ddsdk_integrations.federated.task import FederatedTask
from ddsdk_integrations.federated.updates import recovered_update, robust_mean


class ServerUpdate(NamedTuple):
    """Result of the server's learning in a round.

    Attributes:
        network: Network with the new weights.
        share: Largest share of one client in the weight of a class; for weight updates, its share in their mean.
        influence: Largest share that one client could have had, with the other sets fixed. For weight updates, the
            largest distance by which one client could have moved their mean, in lengths of that mean. Without a
            smaller bound it is 1, or infinity for updates.
        pool: Union of the sets; None for weight updates.
        refused: Refusals of sets that proved unusable during learning.
    """

    network: Network
    share: float
    influence: float
    pool: Pool | None = None
    refused: tuple[Refusal, ...] = ()


class ServerLearner(Protocol):
    """Learning rule of the server: a function of the network and the checked sets that returns new weights."""

    def __call__(
        self, network: Network, sets: Sequence[Contribution], task: FederatedTask, rng: torch.Generator
    ) -> ServerUpdate:
        """Return the new network and its statistics.

        Args:
            network: Network with the weights of the server; it may be changed in place.
            sets: Sets of the clients, at least one and at most one for each client.
            task: Task of the federation.
            rng: Generator from which all random numbers of the round derive.
        """
        ...


@final
@dataclass(frozen=True, kw_only=True)
class TrainOnPool:
    """Learning rule that trains the network on the union of the clients' sets.

    Attributes:
        protocol: Training protocol; its network, number of networks and label form are ignored.
        fresh: Whether each round trains a new network instead of the server's.
        radius: Largest distance of the weights from those at the start of the round, in the norm of all weights; None
            for no limit. Weights are projected back after each epoch, because sets that were matched around these
            weights are not valid far from them.
        weighing: Rule of the weights of the sets.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.federated import ClientRequest, FederatedTask, SetStrategy, TrainOnPool
        >>> task = FederatedTask.of(ddsdk.load("digits"), width=4, depth=2)
        >>> learn = TrainOnPool(protocol=ddsdk.TrainingProtocol(epochs=10, lr=0.03), radius=5.0)
        >>> strategy = SetStrategy(task, ask=ClientRequest(), learn=learn)
    """

    protocol: dd.TrainingProtocol
    fresh: bool = False
    radius: PositiveFloat | None = None
    weighing: PoolWeights = field(default_factory=PoolWeights)

    def __post_init__(self) -> None:
        check_numbers(self)

    def __call__(
        self, network: Network, sets: Sequence[Contribution], task: FederatedTask, rng: torch.Generator
    ) -> ServerUpdate:
        """Return the trained network, with the pool and its bounds."""
        pool = pooled(sets, task, self.weighing)
        if self.fresh:
            network = task.make(derive(rng, "fresh"))
        batch, start = pool.batch(task), weight_vector(network)
        for _ in train(network, batch, self.protocol, derive(rng, "train")):
            if self.radius is not None:
                _project(network, start, self.radius)
        network.eval()
        return ServerUpdate(network, pool.share, max(pool.influence.values()), pool)


@final
@dataclass(frozen=True, kw_only=True)
class MergedSteps:
    """Learning rule of DOSFL: SGD on the batches of all clients in turn, each with its distilled learning rate.

    Attributes:
        passes: Number of passes over all batches, equal to that of the clients' recipe: each step of each pass has its
            own learning rate.
        reach: Largest length of a step in the norm of all weights, whatever its learning rate.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.federated import ClientRequest, FederatedTask, MergedSteps, SetStrategy
        >>> task = FederatedTask.of(ddsdk.load("digits"), width=4, depth=2)
        >>> strategy = SetStrategy(task, ask=ClientRequest(), learn=MergedSteps(passes=3))
    """

    passes: PositiveInt = 1
    reach: PositiveFloat = 1.0

    def __post_init__(self) -> None:
        check_numbers(self)

    def __call__(
        self,
        network: Network,
        sets: Sequence[Contribution],
        task: FederatedTask,
        rng: torch.Generator,  # noqa: ARG002
    ) -> ServerUpdate:
        """Return the network after all steps: step k of all clients precedes step k + 1."""
        pool = pooled(sets, task, PoolWeights())
        steps = [self._steps(contribution, task) for contribution in sets]
        network.train()
        for k in range(max(map(len, steps))):
            for client_steps in steps:
                if k < len(client_steps):
                    _step(network, *client_steps[k], self.reach)
        network.eval()
        # Clients choose order and learning rates of their steps, so their share of images does not bound the influence.
        return ServerUpdate(network, pool.share, 1.0, pool)

    def _steps(self, contribution: Contribution, task: FederatedTask) -> list[tuple[dd.Batch, float]]:
        # DD orders a set by steps, each with one image of each class.
        x, batch_size = task.preprocess(contribution.images), len(torch.unique(contribution.classes))
        batches = list(zip(torch.split(x, batch_size), torch.split(contribution.labels, batch_size), strict=True))
        rates = contribution.rate or (0.01,)
        return [(dd.Batch(*batch), rates[k % len(rates)]) for k, batch in enumerate(batches * self.passes)]


@final
@dataclass(frozen=True, kw_only=True)
class AverageUpdates:
    """Learning rule that recovers each client's weight update from its set and averages the updates robustly.

    The mean is that of `ddsdk_integrations.federated.updates.robust_mean`.

    Attributes:
        student_steps: Number of steps that recover an update, equal to that of the clients' `UpdateEncoding`.
        trim: Share of the highest and of the lowest values of each coordinate that the mean leaves out, in [0, 0.5).
        cap: Largest length of an update in median lengths, at least 1; used if `trim` is 0.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.federated import AverageUpdates, ClientRequest, FederatedTask, SetStrategy
        >>> task = FederatedTask.of(ddsdk.load("digits"), width=4, depth=2)
        >>> strategy = SetStrategy(task, ask=ClientRequest(action="update"), learn=AverageUpdates(trim=0.1))
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
        task: FederatedTask,
        rng: torch.Generator,  # noqa: ARG002
    ) -> ServerUpdate:
        """Return the network with the mean update; updates that are not finite are refused."""
        updates = {
            contribution.node: recovered_update(network, contribution, task, self.student_steps)
            for contribution in sets
        }
        finite = [update for update in updates.values() if bool(torch.isfinite(update).all())]
        diverged = [node for node, update in updates.items() if not bool(torch.isfinite(update).all())]
        refused = tuple(Refusal(node, 6, "finite", "its update must be finite") for node in diverged)
        if not finite:
            return ServerUpdate(network, 0.0, 0.0, refused=refused)
        mean, distance = robust_mean(finite, trim=self.trim, cap=self.cap)
        FlatNetwork(network).load_(weight_vector(network) + mean)
        influence = distance / float(mean.norm().clamp_min(1e-12))
        return ServerUpdate(network, 1 / len(finite), influence, refused=refused)


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
def _project(network: nn.Module, start: Tensor, radius: float) -> None:
    update = weight_vector(network) - start
    length = float(update.norm())
    if length > radius:
        FlatNetwork(network).load_(start + update * (radius / length))
