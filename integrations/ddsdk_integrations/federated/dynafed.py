"""DynaFed: the server distils the trajectory of the global weights, at no traffic beyond that of FedAvg."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar, final

import torch
from flwr.app import ArrayRecord, Message, MetricRecord
from flwr.serverapp.strategy import FedAvg
from torch import Tensor

import ddsdk as dd
from ddsdk.foundation import PositiveFloat, PositiveInt, derive, require
from ddsdk.networks import Network
from ddsdk.synthetic import STARTS, class_slots
from ddsdk.training import epoch, gradient_step, weight_vector
from ddsdk_integrations.federated.spans import PathMatching, WeightPath, stand_in
from ddsdk_integrations.federated.task import Task


@final
@dataclass(frozen=True, kw_only=True)
class Trajectory(PathMatching):
    """Matching of the trajectory of the first rounds, and tuning of the weights of the later ones.

    Attributes:
        rounds: Rounds whose weights are distilled; the set is made after the last of them.
        ipc: Images of each class.
        span: Rounds from the start of a stretch to its end.
        student_lr: Learning rate at which the learned one starts.
        tune_steps: Steps on the set after each aggregation, with the learned rate.
        tune_batch: Images of one of these steps, and of one of `student_steps`.

    References:
        Pi et al., "DynaFed: Tackling Client Data Heterogeneity with Global Dynamics", CVPR 2023, arXiv:2211.10878.
    """

    name: ClassVar[str] = "dynafed"
    highest_rate: ClassVar[float] = 1.0
    rounds: PositiveInt = 10
    ipc: PositiveInt = 10
    span: PositiveInt = 3
    student_steps: PositiveInt = 10
    steps: PositiveInt = 200
    image_lr: PositiveFloat = 0.05
    label_lr: PositiveFloat = 0.05
    scale_lr: PositiveFloat = 0.02
    student_lr: PositiveFloat = 0.02
    tune_steps: PositiveInt = 20
    tune_batch: PositiveInt = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.span <= self.rounds, "span", f"not exceed {self.rounds} rounds", self.span)

    def stretches(self) -> tuple[int, int | None]:
        """Return span and batch size."""
        return self.span, self.tune_batch

    def distil(self, task: Task, weights: Sequence[Tensor], rng: torch.Generator) -> dd.Distilled:
        """Distil weights, (P,) each, of the start and of each round, from noise: the server has no images."""
        require(len(weights) > self.span, "weights", f"have more than {self.span} rounds", len(weights))
        path = WeightPath(
            task=task,
            weights=tuple(weights),
            images=STARTS["noise"](stand_in(task), self.ipc, derive(rng, "start")),
            classes=class_slots(task.num_classes, self.ipc),
            rate=self.student_lr,
        )
        return dd.distill(self, path, seed=rng)

    def tune(self, network: Network, made: dd.Distilled, rng: torch.Generator) -> None:
        """Train a network in place on the distilled trajectory."""
        batch = dd.Batch(*made.as_dataset("probabilities").tensors)
        rate = made.learned_lr
        assert isinstance(rate, float)  # one rate for all steps, see `PathMatching`
        optimizer = torch.optim.SGD(network.parameters(), lr=rate)
        network.train()
        done = 0
        while done < self.tune_steps:
            parts = epoch(batch, self.tune_batch, dd.Augmentation(""), derive(rng, "tune", done))
            for part in islice(parts, self.tune_steps - done):
                gradient_step(network, optimizer, part)
                done += 1


@final
class DynaFed(FedAvg):
    """FedAvg whose server keeps the weights of the first rounds, distils them, and tunes each later aggregate on that.

    It takes the place of Flower's FedAvg before any clients.

    Args:
        task: Task that all sides agree on.
        trajectory: Method that distils and tunes.
        seed: Root of every random number of the server.
        **options: Options of Flower's FedAvg.

    Attributes:
        made: Distilled trajectory; None in the first rounds.
    """

    def __init__(self, task: Task, trajectory: Trajectory | None = None, *, seed: int = 0, **options: Any) -> None:  # noqa: ANN401
        super().__init__(**options)
        self.trajectory = Trajectory() if trajectory is None else trajectory
        self.made: dd.Distilled | None = None
        self._task, self._seed = task, seed
        self._weights: list[Tensor] = []

    def configure_train(self, server_round: int, arrays: ArrayRecord, config: Any, grid: Any) -> Any:  # noqa: ANN401
        """Keep the first weights, and ask as FedAvg does."""
        if not self._weights:
            self._weights.append(weight_vector(self._task.loaded(arrays)))
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Average, and keep the weights or tune them."""
        arrays, metrics = super().aggregate_train(server_round, replies)
        if arrays is None:
            return arrays, metrics
        network, rng = self._task.loaded(arrays), dd.generator("dynafed", self._seed, server_round)
        if self.made is None:
            self._weights.append(weight_vector(network))
            if len(self._weights) <= self.trajectory.rounds:
                return arrays, metrics
            self.made = self.trajectory.distil(self._task, self._weights, derive(rng, "distil"))
        self.trajectory.tune(network, self.made, rng)
        return ArrayRecord(network.state_dict()), metrics
