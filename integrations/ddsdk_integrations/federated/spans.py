"""Matching of trajectories of weights that have no images behind them."""

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
from ddsdk.students import ExpertSpan, MakeStudent
from ddsdk.synthetic import LearnedLabels, LearnedRate, Pixels
from ddsdk.training import FlatNetwork
from ddsdk_integrations.federated.task import Task

_LABEL_SCALE = 4.0


@final
@dataclass(frozen=True)
class Spans:
    """A random stretch for every step.

    Attributes:
        network: The architecture, as a function of weights and images.
        weights: The trajectory, (P,) each.
        span: Entries from the start of a stretch to its end.
    """

    network: FlatNetwork
    weights: tuple[Tensor, ...]
    span: int

    def next(self, real: Source, syn: dd.SyntheticSet, rng: torch.Generator) -> ExpertSpan:  # noqa: ARG002
        """Return a stretch; its start is uniform."""
        start = int(torch.randint(len(self.weights) - self.span, (), generator=rng))
        return ExpertSpan(self.network, self.weights[start], self.weights[start + self.span])

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: all is given at the start."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back nothing."""


def stand_in(task: Task) -> dd.RealData:
    """Return data of the right shape, one grey image of each class, in the place of images that nobody looks at."""
    grey = torch.full((task.num_classes, *task.image_shape), 0.5)
    return task.real(grey, torch.arange(task.num_classes), name="none")


@final
@dataclass(frozen=True, eq=False, kw_only=True)
class WeightPath:
    """A trajectory of the weights of one network, and the start of a set whose training must go along it.

    Attributes:
        task: Task, whose network has these weights.
        weights: Weights of the network, (P,) each, in the order of the rounds.
        images: Images of the set at the start, (M, C, H, W) in the value space.
        classes: Class ids of the task, (M,) int64, at which the soft labels start.
        rate: Learning rate at which that of the set starts.
    """

    task: Task
    weights: tuple[Tensor, ...]
    images: Tensor
    classes: Tensor
    rate: float

    @cached_property
    def real(self) -> dd.RealData:
        """Data that stand for real images: trajectory matching looks at none."""
        return stand_in(self.task)


@dataclass(frozen=True, kw_only=True)
class PathMatching(IterativeMethod[WeightPath], ABC):
    """Trajectory matching along a given path of weights: images, soft labels and a learning rate are learned.

    Attributes:
        student_steps: Steps on the set that must go as far as a stretch of the path.
        steps: Image steps.
        image_lr: Learning rate of the images (Adam).
        label_lr: Learning rate of the label logits (Adam).
        scale_lr: Learning rate of the learned rate (Adam).
        highest_rate: Upper bound of the learned rate.
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
        """Return the rounds of a stretch, and the images of one step on the set; None takes all."""
        return 1, None

    @final
    def evaluation(self, real: WeightPath) -> dd.Evaluation:
        """Return the usual protocol with the network of the task."""
        return dd.Evaluation(network=real.task.network, network_options=real.task.network_options)

    @final
    def source(self, real: WeightPath) -> dd.RealData:
        """Return the stand-in."""
        return real.real

    @final
    def described(self, real: WeightPath) -> dd.RealData:
        """Return the stand-in."""
        return real.real

    @final
    def student(self, real: WeightPath) -> NetworkFactory:
        """Return the factory of the task's network."""
        return real.task.factory

    @final
    def plan(self, real: WeightPath, *, make_student: MakeStudent, rng: torch.Generator) -> dd.Plan[Any]:
        """Return the plan of a set that moves weights along the path."""
        k, (span, batch_size) = real.task.num_classes, self.stretches()
        labels = LearnedLabels(_LABEL_SCALE * torch.nn.functional.one_hot(real.classes, k).float())
        rate = LearnedRate(real.rate, high=self.highest_rate)
        return dd.Plan(
            syn=dd.SyntheticSet(Pixels(real.images), labels, real.classes, k, rate),
            objective=MatchTrajectory(steps=self.student_steps, batch_size=batch_size),
            # The weights are those of the path: the network gives the architecture alone.
            students=Spans(FlatNetwork(make_student(rng)), real.weights, span),
            make_optimizer=partial(
                adam_by_kind, image_lr=self.image_lr, label_lr=self.label_lr, scale_lr=self.scale_lr
            ),
            steps=self.steps,
        )
