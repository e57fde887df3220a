"""Trajectory matching along given weights, without real images."""

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, ClassVar, final

import torch
from torch import Tensor

import ddsdk as dd
from ddsdk.data import Source
from ddsdk.foundation import PositiveFloat, PositiveInt, check_numbers
from ddsdk.networks import NetworkFactory
from ddsdk.objectives import MatchTrajectory
from ddsdk.recipes import adam_by_kind
from ddsdk.running import IterativeMethod
from ddsdk.students import ExpertSegment, MakeStudent
from ddsdk.synthetic import LearnedLabels, LearnedRate, Pixels
from ddsdk.training import FlatNetwork
from ddsdk_integrations.federated.task import FederatedTask

_LABEL_SCALE = 4.0


@final
@dataclass(frozen=True)
class PathSegments:
    """Supply of random segments of a weight trajectory, one for each step.

    Attributes:
        network: Architecture, as a function of weights and images.
        weights: Weights of the trajectory, (P,) each.
        span: Number of entries from the start of a segment to its end.
    """

    network: FlatNetwork
    weights: tuple[Tensor, ...]
    span: int

    def next(self, real: Source, syn: dd.SyntheticSet, rng: torch.Generator) -> ExpertSegment:  # noqa: ARG002
        """Return a segment whose start is uniformly distributed."""
        start = int(torch.randint(len(self.weights) - self.span, (), generator=rng))
        return ExpertSegment(self.network, self.weights[start], self.weights[start + self.span])

    def state_dict(self) -> dict[str, Any]:
        """Return an empty state, because the trajectory is fixed."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Do nothing, because there is no state."""


def placeholder_data(task: FederatedTask) -> dd.RealData:
    """Return one grey image of each class, as placeholder for real images that trajectory matching does not use."""
    grey = torch.full((task.num_classes, *task.image_shape), 0.5)
    return task.real(grey, torch.arange(task.num_classes), name="none")


@final
@dataclass(frozen=True, eq=False, kw_only=True)
class WeightPath:
    """Weight trajectory of one network, and the initial synthetic set whose training is to follow it.

    Attributes:
        task: Task of the federation, which defines the network.
        weights: Weights of the network, (P,) each, in the order of the rounds.
        images: Initial images of the set, (M, C, H, W) in the value space.
        classes: Class id of each image in the task, (M,) int64, for the initial soft labels.
        rate: Initial value of the learned learning rate, positive.
    """

    task: FederatedTask
    weights: tuple[Tensor, ...]
    images: Tensor
    classes: Tensor
    rate: float

    @cached_property
    def real(self) -> dd.RealData:
        """Placeholder for real images, which trajectory matching does not use."""
        return placeholder_data(self.task)


@dataclass(frozen=True, kw_only=True)
class PathMatching(IterativeMethod[WeightPath], ABC):
    """Trajectory matching along given weights, with learned images, soft labels and learning rate.

    Attributes:
        highest_rate: Upper bound of the learned learning rate.
        student_steps: Number of steps on the set that should end where a segment of the trajectory ends.
        steps: Number of optimization steps of the images.
        image_lr: Learning rate of the images (Adam).
        label_lr: Learning rate of the label logits (Adam).
        scale_lr: Learning rate of the learned learning rate (Adam).
    """

    highest_rate: ClassVar[float]
    student_steps: PositiveInt
    steps: PositiveInt
    image_lr: PositiveFloat
    label_lr: PositiveFloat
    scale_lr: PositiveFloat

    def __post_init__(self) -> None:
        check_numbers(self)

    def stretches(self) -> tuple[int, int | None]:
        """Return the length of a segment in rounds, and the batch size of a step on the set; None for the whole set."""
        return 1, None

    @final
    def protocol(self, real: WeightPath) -> dd.TrainingProtocol:
        """Return the default protocol with the network of the task."""
        return dd.TrainingProtocol(network=real.task.network, network_options=real.task.network_options)

    @final
    def source(self, real: WeightPath) -> dd.RealData:
        """Return the placeholder data."""
        return real.real

    @final
    def described(self, real: WeightPath) -> dd.RealData:
        """Return the placeholder data."""
        return real.real

    @final
    def student(self, real: WeightPath) -> NetworkFactory:
        """Return the factory of the task's network."""
        return real.task.factory

    @final
    def plan(self, real: WeightPath, *, make_student: MakeStudent, rng: torch.Generator) -> dd.Plan[Any]:
        """Return the plan of trajectory matching along the weights of `real`."""
        k, (span, batch_size) = real.task.num_classes, self.stretches()
        labels = LearnedLabels(_LABEL_SCALE * torch.nn.functional.one_hot(real.classes, k).float())
        rate = LearnedRate(real.rate, high=self.highest_rate)
        return dd.Plan(
            syn=dd.SyntheticSet(Pixels(real.images), labels, real.classes, k, rate),
            objective=MatchTrajectory(steps=self.student_steps, batch_size=batch_size),
            # Only the architecture of this network is used; weights come from the trajectory.
            students=PathSegments(FlatNetwork(make_student(rng)), real.weights, span),
            make_optimizer=partial(
                adam_by_kind, image_lr=self.image_lr, label_lr=self.label_lr, scale_lr=self.scale_lr
            ),
            steps=self.steps,
        )
