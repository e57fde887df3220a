"""What the server makes of the sets of a round: new weights, by training on their union or by replaying updates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, final

import torch
from torch import Tensor, nn

import ddsdk as dd
from ddsdk.errors import require
from ddsdk.inner.fit import gradient_step
from ddsdk.inner.flat import FlatNetwork, weight_vector
from ddsdk.judge import train
from ddsdk_integrations.federated.payload import Contribution
from ddsdk_integrations.federated.pool import Pool, Weighing, pooled
from ddsdk_integrations.federated.task import Task
from ddsdk_integrations.federated.updates import recovered_update, robust_mean

__all__ = ["AverageUpdates", "Learned", "Learner", "MergedSteps", "TrainOnPool"]


class Learned(NamedTuple):
    """What came out of a round.

    Attributes:
        network: With the new weights.
        share: Largest share of the weight of a class that one client had; of the sum for updates.
        influence: Largest share that one could have had.
        pool: The union of the sets, where there is one.
    """

    network: dd.Network
    share: float
    influence: float
    pool: Pool | None = None


class Learner(Protocol):
    """Makes new weights of the sets that passed the checks."""

    def __call__(
        self,
        network: dd.Network,
        sets: Sequence[Contribution],
        task: Task,
        rng: torch.Generator,
        *,
        quota: int,
    ) -> Learned:
        """Return the new network.

        Args:
            network: The server's, which may be changed.
            sets: At least one.
            task: What is agreed on.
            rng: Root of every random number of the round.
            quota: Images of a class that one client may send.
        """
        ...


@final
@dataclass(frozen=True, kw_only=True)
class TrainOnPool:
    """Train on the union of the sets.

    Attributes:
        evaluation: How; its network, number of networks and label form are not looked at.
        fresh: From a new network each time, and not from the server's.
        radius: After each epoch the weights come back to at most so far from where they began: sets that were matched
            around these weights say nothing of what lies beyond. None leaves them free.
        weighing: How much each set counts.
    """

    evaluation: dd.Evaluation
    fresh: bool = False
    radius: float | None = None
    weighing: Weighing = field(default_factory=Weighing)

    def __post_init__(self) -> None:
        require(self.radius is None or self.radius > 0, "radius", "be positive", self.radius)

    def __call__(
        self,
        network: dd.Network,
        sets: Sequence[Contribution],
        task: Task,
        rng: torch.Generator,
        *,
        quota: int,
    ) -> Learned:
        """Return the trained network."""
        pool = pooled(sets, task, self.weighing, quota=quota)
        if self.fresh:
            network = task.make(dd.derive(rng, "fresh"))
        batch, began = pool.batch(task), weight_vector(network)
        for _ in train(network, batch, self.evaluation, dd.derive(rng, "train")):
            if self.radius is not None:
                _bring_back(network, began, self.radius)
        network.eval()
        return Learned(network, pool.share, max(pool.influence.values()), pool)


@final
@dataclass(frozen=True, kw_only=True)
class MergedSteps:
    """Go through the batches of all clients in turn, each with the rate that was learned with it, as DOSFL does.

    Attributes:
        passes: Through all of them.
        batch_size: Images of one step; None for one of each class of the client, as DD makes them.

    References:
        Zhou et al., "Distilled One-Shot Federated Learning", 2020, arXiv:2009.07999.
    """

    passes: int = 1
    batch_size: int | None = None

    def __call__(
        self,
        network: dd.Network,
        sets: Sequence[Contribution],
        task: Task,
        rng: torch.Generator,  # noqa: ARG002
        *,
        quota: int,
    ) -> Learned:
        """Return the network after all steps: step k of every client comes before step k + 1 of any."""
        pool = pooled(sets, task, Weighing(), quota=quota)
        steps = [self._steps(one, task) for one in sets]
        longest = max(map(len, steps))
        network.train()
        for _ in range(self.passes):
            for k in range(longest):
                for mine in steps:
                    if k < len(mine):
                        _step(network, *mine[k])
        network.eval()
        return Learned(network, pool.share, max(pool.influence.values()), pool)

    def _steps(self, one: Contribution, task: Task) -> list[tuple[dd.Batch, float]]:
        size = len(torch.unique(one.classes)) if self.batch_size is None else self.batch_size
        x = task.preprocess(one.images)
        parts = list(zip(torch.split(x, size), torch.split(one.labels, size), strict=True))
        rates = one.rate or (0.01,)
        return [(dd.Batch(*part), rates[k % len(rates)]) for k, part in enumerate(parts)]


@final
@dataclass(frozen=True, kw_only=True)
class AverageUpdates:
    """Replay each client's set on the server's weights, and average the updates.

    Attributes:
        student_steps: Of the replay; it must be that of the clients' `Encoding`.
        trim: Of each coordinate as large a share of the highest and of the lowest values is left out.
        cap: An update is shortened to so many times the median length.
        most: A client's real images count up to so many times the median of all clients'.
    """

    student_steps: int = 3
    trim: float = 0.0
    cap: float = 3.0
    most: float = 3.0

    def __call__(
        self,
        network: dd.Network,
        sets: Sequence[Contribution],
        task: Task,
        rng: torch.Generator,  # noqa: ARG002
        *,
        quota: int,  # noqa: ARG002
    ) -> Learned:
        """Return the network with the mean update."""
        updates = [recovered_update(network, one, task, self.student_steps) for one in sets]
        examples = sorted(one.examples for one in sets)
        limit = self.most * examples[(len(examples) - 1) // 2]
        weights = [min(float(one.examples), limit) for one in sets]
        mean, moved = robust_mean(updates, weights, trim=self.trim, cap=self.cap)
        FlatNetwork(network).load_(weight_vector(network) + mean)
        possible = moved / float(mean.norm().clamp_min(1e-12))
        return Learned(network, max(weights) / sum(weights), min(1.0, possible))


def _step(network: dd.Network, batch: dd.Batch, rate: float) -> None:
    gradient_step(network, torch.optim.SGD(network.parameters(), lr=rate), batch)


@torch.no_grad()
def _bring_back(network: nn.Module, began: Tensor, radius: float) -> None:
    moved = weight_vector(network) - began
    length = float(moved.norm())
    if length > radius:
        FlatNetwork(network).load_(began + moved * (radius / length))
