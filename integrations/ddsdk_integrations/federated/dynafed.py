"""DynaFed: the server distils the trajectory of the global weights, and no client sends anything more for it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from flwr.app import ArrayRecord, Message, MetricRecord
from flwr.serverapp.strategy import FedAvg
from torch import Tensor

import ddsdk as dd
from ddsdk.foundation import derive, require, require_count, require_rate
from ddsdk.networks import Network
from ddsdk.synthetic import STARTS, class_slots
from ddsdk.training import epoch, gradient_step, weight_vector
from ddsdk_integrations.federated.spans import PathMatching, WeightPath, stand_in
from ddsdk_integrations.federated.task import Task


@final
@dataclass(frozen=True, kw_only=True)
class Trajectory(PathMatching):
    """How the server distils the weights of the first rounds, and tunes those of the later ones.

    Attributes:
        rounds: Rounds whose weights are distilled; the set is made after the last of them.
        ipc: Images of each class.
        span: Rounds from the start of a stretch to its end.
        student_steps: Steps on the set that must go as far as a stretch.
        steps: Image steps.
        image_lr: Learning rate of the images (Adam).
        label_lr: Learning rate of the label logits (Adam).
        scale_lr: Learning rate of the learned rate (Adam).
        student_lr: Learning rate at which the learned one starts.
        tune_steps: Steps on the set after each aggregation, with the learned rate.
        tune_batch: Images of one of these steps, and of those of `student_steps`.

    References:
        Pi et al., "DynaFed: Tackling Client Data Heterogeneity with Global Dynamics", CVPR 2023, arXiv:2211.10878.
    """

    name: ClassVar[str] = "dynafed"
    highest_rate: ClassVar[float] = 1.0
    rounds: int = 10
    ipc: int = 10
    span: int = 3
    student_steps: int = 10
    steps: int = 200
    image_lr: float = 0.05
    label_lr: float = 0.05
    scale_lr: float = 0.02
    student_lr: float = 0.02
    tune_steps: int = 20
    tune_batch: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("rounds", "ipc", "span", "tune_steps", "tune_batch"):
            require_count(name, getattr(self, name))
        require_rate("student_lr", self.student_lr)
        require(self.span <= self.rounds, "span", f"not exceed {self.rounds} rounds", self.span)

    @property
    def stretch(self) -> int:
        """Rounds from the start of a stretch to its end."""
        return self.span

    @property
    def student_batch(self) -> int | None:
        """Images of one step on the set."""
        return self.tune_batch

    def distil(self, task: Task, weights: Sequence[Tensor], rng: torch.Generator) -> dd.Distilled:
        """Distil a trajectory of weights, from noise: the server has no images.

        Args:
            task: Task that all sides agree on.
            weights: Weights of the network, (P,) each, round by round, the first ones included.
            rng: Root of every random number.
        """
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
            for part in epoch(batch, self.tune_batch, dd.Augmentation(""), derive(rng, "tune", done)):
                gradient_step(network, optimizer, part)
                done += 1
                if done == self.tune_steps:
                    break


@final
class DynaFed(FedAvg):
    """FedAvg whose server keeps the weights of the first rounds, distils them, and tunes each later aggregate on that.

    It takes the place of Flower's FedAvg before any clients; the traffic is that of FedAvg.

    Args:
        task: Task that all sides agree on.
        trajectory: Method that distils and tunes.
        seed: Root of every random number of the server.
        **options: Options of Flower's FedAvg.

    Attributes:
        made: The distilled trajectory; None before it is there.
    """

    def __init__(
        self,
        task: Task,
        trajectory: Trajectory | None = None,
        *,
        seed: int = 0,
        **options: Any,  # noqa: ANN401
    ) -> None:
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
