"""Trajectory matching: the distance of a student trained on the synthetic set from an expert trained on real data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, final

import torch
from torch import Tensor

from ddsdk.data import NO_AUGMENTATION, Augmentation, Source
from ddsdk.foundation import CheckedDataclass, PositiveInt
from ddsdk.objectives.training import SetTraining
from ddsdk.synthetic import SyntheticView
from ddsdk.training import InnerOptimizer, InnerSGD, Unroll, constant_memory

_SGD = InnerSGD()


class TrajectorySegment(Protocol):
    """A segment of an expert trajectory, such as a `ddsdk.students.ExpertSegment`."""

    @property
    def network(self) -> Callable[[Tensor, Tensor], Tensor]:
        """Network as a function from weights, (P,), and images, (B, C, H, W), to logits, (B, K)."""
        ...

    @property
    def start(self) -> Tensor:
        """Weights at which the student starts, (P,)."""
        ...

    @property
    def target(self) -> Tensor:
        """Weights that the student should reach, (P,)."""
        ...


@final
@dataclass(frozen=True, kw_only=True)
class MatchTrajectory(CheckedDataclass):
    """The distance of the student's last weights from the expert's target, relative to the length of the segment.

    ||w_N - w*||^2 / ||w_0 - w*||^2 (eq. 2), with w_0 and w* the start and the target of the segment, and w_N the
    weights after N steps on the set from w_0. It is 1 for a student that does not move and 0 for one that reaches the
    target. Images, labels and learning rate of the set have gradients.

    Attributes:
        steps: Number N of training steps of the student.
        batch_size: Images in one of these steps; None for the whole set. Each epoch splits a new permutation of the set
            into batches, of which the last may be smaller.
        augmentation: Augmentation with different random numbers for each step and image.
        unroll: Method of the unrolled gradient through the student's training.
        optimizer: Differentiable optimizer of the student.

    Cost: with `constant_memory`, one gradient of the student's loss and one second derivative for each step, and one
    more gradient for each step whose graph was not kept; memory for 1 GiB of kept graphs, the graph of one step and N
    weight vectors.

    References:
        Cazenavette et al., "Dataset Distillation by Matching Training Trajectories", CVPR 2022, arXiv:2203.11932.

    Examples:
        >>> import dataclasses
        >>> from ddsdk.objectives import MatchTrajectory
        >>> from ddsdk.training import truncated
        >>> match = MatchTrajectory(steps=20, batch_size=100, unroll=truncated)
        >>> swap = lambda plan: dataclasses.replace(plan, objective=match)  # transform of distill, with ddsdk.MTT
    """

    steps: PositiveInt
    batch_size: PositiveInt | None = None
    augmentation: Augmentation = NO_AUGMENTATION
    unroll: Unroll = constant_memory
    optimizer: InnerOptimizer = _SGD

    def __call__(
        self,
        student: TrajectorySegment,
        real: Source,  # noqa: ARG002
        syn: SyntheticView,
        rng: torch.Generator,
    ) -> Iterator[Tensor]:
        """Yield the distance as one term; the set must have a learned learning rate.

        Raises:
            TypeError: If the student is no segment of an expert trajectory.
        """
        if not all(hasattr(student, part) for part in ("network", "start", "target")):
            raise TypeError(f"student must be a segment of an expert trajectory, got {type(student).__name__}")
        training = SetTraining(batch_size=self.batch_size, augmentation=self.augmentation)
        loss, inputs = training.on(student.network, syn, rng)
        *_, end = self.unroll(loss, student.start, inputs, syn.rate, steps=self.steps, optimizer=self.optimizer)
        yield (end - student.target).square().sum() / (student.start - student.target).square().sum()
