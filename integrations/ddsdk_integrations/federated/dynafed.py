"""DynaFed: FedAvg with a server that distils the trajectory of the global weights, without additional traffic."""

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
from ddsdk_integrations.federated.task import FederatedTask
from ddsdk_integrations.federated.weight_path import PathMatching, WeightPath, placeholder_data


@final
@dataclass(frozen=True, kw_only=True)
class ServerTrajectory(PathMatching):
    """Trajectory matching of the first rounds' global weights, and fine-tuning of later ones on the distilled set.

    Attributes:
        rounds: Number of rounds whose weights are distilled; distillation follows the last of them.
        ipc: Images per class of the distilled set.
        span: Number of rounds from the start of a segment to its end, at most `rounds`.
        student_steps: Number of steps on the set that should end where a segment ends.
        steps: Number of optimization steps of the images.
        image_lr: Learning rate of the images (Adam).
        label_lr: Learning rate of the label logits (Adam).
        scale_lr: Learning rate of the learned learning rate (Adam).
        student_lr: Initial value of the learned learning rate.
        tune_steps: Number of fine-tuning steps on the set after each aggregation, with the learned learning rate.
        tune_batch: Number of images in a fine-tuning step, and in one of `student_steps`.

    References:
        Pi et al., "DynaFed: Tackling Client Data Heterogeneity with Global Dynamics", CVPR 2023, arXiv:2211.10878.

    Examples:
        >>> from ddsdk_integrations.federated import ServerTrajectory
        >>> ServerTrajectory(rounds=8, span=3, steps=150).ipc
        10
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
        """Return `span` and `tune_batch`."""
        return self.span, self.tune_batch

    def distil(self, task: FederatedTask, weights: Sequence[Tensor], rng: torch.Generator) -> dd.Distilled:
        """Return the distilled trajectory, from initial images of noise, because the server has no real images.

        Args:
            task: Task of the federation.
            weights: Global weights at the start and after each round, (P,) each, more than `span` of them.
            rng: Generator from which all random numbers derive.
        """
        require(len(weights) > self.span, "weights", f"have more than {self.span} rounds", len(weights))
        path = WeightPath(
            task=task,
            weights=tuple(weights),
            images=STARTS["noise"](placeholder_data(task), self.ipc, derive(rng, "start")),
            classes=class_slots(task.num_classes, self.ipc),
            rate=self.student_lr,
        )
        return dd.distill(self, path, seed=rng)

    def tune(self, network: Network, made: dd.Distilled, rng: torch.Generator) -> None:
        """Fine-tune a network in place on the distilled set.

        Args:
            network: Network with the aggregated weights.
            made: Distilled set with its learned learning rate.
            rng: Generator of the order of the images.
        """
        batch = dd.Batch(*made.as_dataset("probabilities").tensors)
        rate = made.learned_lr
        assert isinstance(rate, float)  # `PathMatching` learns one rate for all steps
        optimizer = torch.optim.SGD(network.parameters(), lr=rate)
        network.train()
        done = 0
        while done < self.tune_steps:
            batches = epoch(batch, self.tune_batch, dd.Augmentation(""), derive(rng, "tune", done))
            for minibatch in islice(batches, self.tune_steps - done):
                gradient_step(network, optimizer, minibatch)
                done += 1


@final
class DynaFed(FedAvg):
    """FedAvg whose server distils the global weights of the first rounds and fine-tunes later aggregates on the set.

    Clients are those of FedAvg without any change.

    Args:
        task: Task of the federation.
        trajectory: Settings of distillation and fine-tuning; None for the defaults of `ServerTrajectory`.
        seed: Seed from which all random numbers of the server derive.
        **options: Options of Flower's FedAvg.

    Attributes:
        made: Distilled set; None until the last of the first rounds.

    References:
        Pi et al., "DynaFed: Tackling Client Data Heterogeneity with Global Dynamics", CVPR 2023, arXiv:2211.10878.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.federated import DynaFed, FederatedTask, ServerTrajectory
        >>> task = FederatedTask.of(ddsdk.load("digits"), width=4, depth=2)
        >>> strategy = DynaFed(task, ServerTrajectory(rounds=5, span=2), min_available_nodes=1, min_train_nodes=1)
    """

    def __init__(
        self,
        task: FederatedTask,
        trajectory: ServerTrajectory | None = None,
        *,
        seed: int = 0,
        **options: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(**options)
        self.trajectory = ServerTrajectory() if trajectory is None else trajectory
        self.made: dd.Distilled | None = None
        self._task, self._seed = task, seed
        self._weights: list[Tensor] = []

    def configure_train(self, server_round: int, arrays: ArrayRecord, config: Any, grid: Any) -> Any:  # noqa: ANN401
        """Return the messages of FedAvg, and record the initial weights in the first round."""
        if not self._weights:
            self._weights.append(weight_vector(self._task.loaded(arrays)))
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return the average of the clients' weights, recorded in the first rounds and fine-tuned in later ones."""
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
