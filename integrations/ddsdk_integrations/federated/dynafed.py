"""DynaFed: the server distils the trajectory of the global weights, and no client sends anything more for it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from flwr.app import ArrayRecord, Message, MetricRecord
from flwr.serverapp.strategy import FedAvg
from torch import Tensor

import ddsdk as dd
from ddsdk.artefact import assemble
from ddsdk.foundation import derive, require, require_count, require_rate
from ddsdk.networks import Network
from ddsdk.synthetic import STARTS, LearnedRate, class_slots
from ddsdk.training import FlatNetwork, epoch, gradient_step, weight_vector
from ddsdk_integrations.federated.spans import Spans, matching_plan
from ddsdk_integrations.federated.task import Task

__all__ = ["DynaFed", "Trajectory"]


@final
@dataclass(frozen=True, kw_only=True)
class Trajectory:
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
        student_lr: Where the learned rate starts.
        tune_steps: Steps on the set after each aggregation, with the learned rate.
        tune_batch: Images of one of these steps.

    References:
        Pi et al., "DynaFed: Tackling Client Data Heterogeneity with Global Dynamics", CVPR 2023, arXiv:2211.10878.
    """

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
        for name in ("rounds", "ipc", "span", "student_steps", "steps", "tune_steps", "tune_batch"):
            require_count(name, getattr(self, name))
        for name in ("image_lr", "label_lr", "scale_lr", "student_lr"):
            require_rate(name, getattr(self, name))
        require(self.span <= self.rounds, "span", f"not exceed {self.rounds} rounds", self.span)

    def distil(self, task: Task, weights: Sequence[Tensor], rng: torch.Generator) -> dd.Distilled:
        """Distil a trajectory of weights, from noise: the server has no images.

        Args:
            task: What is agreed on.
            weights: Of the network, (P,) each, round by round, the first ones included.
            rng: Root of every random number.
        """
        require(len(weights) > self.span, "weights", f"have more than {self.span} rounds", len(weights))
        stand_in = _stand_in(task)
        classes = class_slots(task.num_classes, self.ipc)
        plan = matching_plan(
            self,
            STARTS["noise"](stand_in, self.ipc, derive(rng, "start")),
            classes,
            LearnedRate(self.student_lr, low=1e-4, high=1.0),
            Spans(FlatNetwork(task.make(rng)), tuple(weights), self.span),
            num_classes=task.num_classes,
            batch_size=self.tune_batch,
        )
        run: dd.Distillation[Any] = dd.Distillation(plan, stand_in, rng=derive(rng, "steps"))
        for _ in run:
            pass
        evaluation = dd.Evaluation(network=task.network, network_options=task.network_options)
        return assemble(
            self, run.result, stand_in, evaluation=evaluation, rng=rng, seconds=0, run=run.record()
        )

    def tune(self, network: Network, made: dd.Distilled, rng: torch.Generator) -> None:
        """Train a network in place on the distilled trajectory."""
        batch = dd.Batch(*made.as_dataset("probabilities").tensors)
        rate = made.learned_lr
        assert isinstance(rate, float)  # one rate for all steps, see `distil`
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
        task: What is agreed on.
        trajectory: How it distils and tunes.
        seed: Root of every random number of the server.
        **options: Of Flower's FedAvg.

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


def _stand_in(task: Task) -> dd.RealData:
    """Return data of the right shape, one grey image of each class: trajectory matching looks at no images."""
    return dd.RealData(
        torch.full((task.num_classes, *task.image_shape), 0.5),
        torch.arange(task.num_classes),
        class_names=task.class_names,
        preprocess=task.preprocess,
        name="none",
    )
