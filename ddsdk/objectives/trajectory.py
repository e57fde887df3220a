"""Trajectory matching: a student that trains on the synthetic set must end where an expert went on real data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, final, runtime_checkable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ddsdk.augment import NO_AUGMENTATION, Augmentation
from ddsdk.data.sources import Batch, Source
from ddsdk.errors import require_count
from ddsdk.inner.optimizers import InnerOptimizer, InnerSGD
from ddsdk.inner.unroll import StepLoss, Unroll, constant_memory
from ddsdk.rng import derive

__all__ = ["MatchTrajectory", "Span", "WholeSet"]

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


@runtime_checkable
class WholeSet(Protocol):
    """A synthetic set that can be trained on as a whole, with a learning rate of its own."""

    @property
    def rate(self) -> Tensor:
        """The learning rate, a scalar with graph."""
        ...

    def whole(self, rng: torch.Generator) -> Batch:
        """Return everything, with graph."""
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
        syn: Source,
        rng: torch.Generator,
    ) -> Iterator[Tensor]:
        """Yield the one distance.

        Raises:
            TypeError: If `student` is no stretch of a trajectory, or `syn` cannot be taken whole.
            ValueError: If `syn` has no learning rate of its own.
        """
        if not all(hasattr(student, part) for part in ("network", "start", "target")):
            raise TypeError(
                f"student must be a stretch of an expert's trajectory, got {type(student).__name__}"
            )
        if not isinstance(syn, WholeSet):
            raise TypeError(f"syn must be a whole set with a rate, got {type(syn).__name__}")
        images, labels = syn.whole(derive(rng, "decode"))
        end = self.unroll(
            self._loss(student.network, rng),
            student.start,
            (images, labels),
            syn.rate,
            steps=self.steps,
            optimizer=self.optimizer,
        )
        yield (end - student.target).square().sum() / (student.start - student.target).square().sum()

    def _loss(self, network: Callable[[Tensor, Tensor], Tensor], rng: torch.Generator) -> StepLoss:
        """Return what step k descends; all of its chance comes from `rng` and k, so that it can be taken again."""

        def loss(k: int, weights: Tensor, inputs: Sequence[Tensor]) -> Tensor:
            images, labels = inputs
            part = self._part(k, len(images), rng).to(images.device)
            draw = self.augmentation.per_image(len(part), derive(rng, "augmentation", k))
            return cross_entropy(network(weights, draw(images[part])), labels[part])

        return loss

    def _part(self, k: int, images: int, rng: torch.Generator) -> Tensor:
        """Return which of the images step k sees."""
        size = images if self.batch_size is None else min(self.batch_size, images)
        epoch, i = divmod(k, -(-images // size))
        order = torch.randperm(images, generator=derive(rng, "order", epoch))
        return order[i * size : (i + 1) * size]
