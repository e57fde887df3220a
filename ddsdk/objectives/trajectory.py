"""Trajectory matching: a student that trains on the synthetic set must end where an expert went on real data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, final

import torch
from torch import Tensor

from ddsdk.data import NO_AUGMENTATION, Augmentation, Source
from ddsdk.foundation import Checked, PositiveInt
from ddsdk.objectives.training import SetTraining
from ddsdk.synthetic import SyntheticView
from ddsdk.training import InnerOptimizer, InnerSGD, Unroll, constant_memory

_SGD = InnerSGD()


class Span(Protocol):
    """A stretch of an expert's trajectory."""

    @property
    def network(self) -> Callable[[Tensor, Tensor], Tensor]:
        """Function of the architecture: weights, (P,), and images, (B, C, H, W), to logits, (B, K)."""
        ...

    @property
    def start(self) -> Tensor:
        """Weights where the student starts, (P,)."""
        ...

    @property
    def target(self) -> Tensor:
        """Weights where it should end, (P,)."""
        ...


@final
@dataclass(frozen=True, kw_only=True)
class MatchTrajectory(Checked):
    """The distance of a student's end from the expert's target, as a share of the way of the expert.

    ||w_N - w*||^2 / ||w_0 - w*||^2, with w_0 and w* the start and the target of the span, and w_N the weights after
    N steps on the set from w_0: 1 for a student that stays where it is, 0 for one that meets the target (eq. 2). It is
    differentiable with respect to images, labels and learning rate of the set.

    Attributes:
        steps: Steps of the student, N.
        batch_size: Images of one of these steps; None takes the whole set. A permutation of the set is cut into
            batches, the last one being what is left; then comes the next permutation.
        augmentation: Augmentation, drawn for each step, with numbers of its own for each image.
        unroll: Gradient through the training of the student.
        optimizer: Optimizer of the student.

    Cost: with `constant_memory`, two gradients of the student's loss and one second derivative for each step; memory
    for the graph of one step and N weight vectors.

    References:
        Cazenavette et al., "Dataset Distillation by Matching Training Trajectories", CVPR 2022, arXiv:2203.11932.
    """

    steps: PositiveInt
    batch_size: PositiveInt | None = None
    augmentation: Augmentation = NO_AUGMENTATION
    unroll: Unroll = constant_memory
    optimizer: InnerOptimizer = _SGD

    def __call__(self, student: Span, real: Source, syn: SyntheticView, rng: torch.Generator) -> Iterator[Tensor]:  # noqa: ARG002
        """Yield the one distance; the set must have a learning rate of its own."""
        if not all(hasattr(student, part) for part in ("network", "start", "target")):
            raise TypeError(f"student must be a stretch of an expert's trajectory, got {type(student).__name__}")
        training = SetTraining(batch_size=self.batch_size, augmentation=self.augmentation)
        loss, inputs = training.on(student.network, syn, rng)
        *_, end = self.unroll(loss, student.start, inputs, syn.rate, steps=self.steps, optimizer=self.optimizer)
        yield (end - student.target).square().sum() / (student.start - student.target).square().sum()
