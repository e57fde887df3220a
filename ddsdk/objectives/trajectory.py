"""Trajectory matching: a student that trains on the synthetic set must end where an expert went on real data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, final

import torch
from torch import Tensor

from ddsdk.data import NO_AUGMENTATION, Augmentation, Source
from ddsdk.foundation import require_count
from ddsdk.objectives.training import SetTraining
from ddsdk.synthetic import SyntheticView
from ddsdk.training import InnerOptimizer, InnerSGD, Unroll, constant_memory

_SGD = InnerSGD()


class Span(Protocol):
    """A stretch of an expert's trajectory."""

    @property
    def network(self) -> Callable[[Tensor, Tensor], Tensor]:
        """The architecture: weights, (P,), and images, (B, C, H, W), to logits, (B, K)."""
        ...

    @property
    def start(self) -> Tensor:
        """The weights where the student starts, (P,)."""
        ...

    @property
    def target(self) -> Tensor:
        """The weights where it should end, (P,)."""
        ...


@final
@dataclass(frozen=True, kw_only=True)
class MatchTrajectory:
    """How far a student ends from the expert's target, as a share of how far the expert went.

    ||w_N - w*||^2 / ||w_0 - w*||^2, with w_0 and w* the start and the target of the span, and w_N the weights after
    N steps on the set from w_0: 1 for a student that stays where it is, 0 for one that meets the target (eq. 2). It is
    differentiable with respect to images, labels and learning rate of the set.

    Attributes:
        steps: Steps of the student, N.
        batch_size: Images of one of these steps; None takes the whole set. A permutation of the set is cut into
            batches, the last one being what is left; then comes the next permutation.
        augmentation: Drawn for each step, with numbers of its own for each image.
        unroll: How the gradient passes through the training of the student.
        optimizer: How the student steps.

    Cost: with `constant_memory`, two gradients of the student's loss and one second derivative for each step; memory
    for the graph of one step and N weight vectors.

    References:
        Cazenavette et al., "Dataset Distillation by Matching Training Trajectories", CVPR 2022, arXiv:2203.11932.
    """

    steps: int
    batch_size: int | None = None
    augmentation: Augmentation = NO_AUGMENTATION
    unroll: Unroll = constant_memory
    optimizer: InnerOptimizer = _SGD

    def __post_init__(self) -> None:
        require_count("steps", self.steps)
        if self.batch_size is not None:
            require_count("batch_size", self.batch_size)

    def __call__(
        self,
        student: Span,
        real: Source,  # noqa: ARG002
        syn: SyntheticView,
        rng: torch.Generator,
    ) -> Iterator[Tensor]:
        """Yield the one distance.

        Raises:
            TypeError: If `student` is no stretch of a trajectory.
            ValueError: If `syn` has no learning rate of its own.
        """
        if not all(hasattr(student, part) for part in ("network", "start", "target")):
            raise TypeError(f"student must be a stretch of an expert's trajectory, got {type(student).__name__}")
        training = SetTraining(batch_size=self.batch_size, augmentation=self.augmentation)
        loss, inputs = training.on(student.network, syn, rng)
        *_, end = self.unroll(loss, student.start, inputs, syn.rate, steps=self.steps, optimizer=self.optimizer)
        yield (end - student.target).square().sum() / (student.start - student.target).square().sum()
