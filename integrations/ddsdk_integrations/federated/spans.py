"""Stretches of one trajectory of weights, and sets whose training goes as far as these."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, final

import torch
from torch import Tensor

import ddsdk as dd
from ddsdk.data import Source
from ddsdk.objectives import MatchTrajectory
from ddsdk.recipes import adam_by_kind
from ddsdk.students import ExpertSpan
from ddsdk.synthetic import LearnedLabels, LearnedRate, Pixels
from ddsdk.training import FlatNetwork

__all__ = ["Spans", "matching_plan"]

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

    def next(self, real: Source, syn: Source, rng: torch.Generator) -> ExpertSpan:  # noqa: ARG002
        """Return a stretch; its start is uniform."""
        start = int(torch.randint(len(self.weights) - self.span, (), generator=rng))
        return ExpertSpan(self.network, self.weights[start], self.weights[start + self.span])

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: all is given at the start."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back nothing."""


class _Matching(Protocol):
    """What `Encoding` and `Trajectory` say alike."""

    @property
    def student_steps(self) -> int: ...
    @property
    def steps(self) -> int: ...
    @property
    def image_lr(self) -> float: ...
    @property
    def label_lr(self) -> float: ...
    @property
    def scale_lr(self) -> float: ...


def matching_plan(
    how: _Matching,
    images: Tensor,
    classes: Tensor,
    rate: LearnedRate,
    spans: Spans,
    *,
    num_classes: int,
    batch_size: int | None = None,
) -> dd.Plan[Any]:
    """Return the plan of a set that moves weights along a trajectory: its images, soft labels and rate are learned.

    Args:
        how: Steps and learning rates.
        images: (M, C, H, W) to start from, in the value space.
        classes: (M,) ids, at which the labels start.
        rate: Of the steps on the set.
        spans: Of the trajectory.
        num_classes: K of the labels.
        batch_size: Images of one step on the set; None takes all.
    """
    labels = LearnedLabels(_LABEL_SCALE * torch.nn.functional.one_hot(classes, num_classes).float())
    return dd.Plan(
        syn=dd.SyntheticSet(Pixels(images), labels, classes, num_classes, rate),
        objective=MatchTrajectory(steps=how.student_steps, batch_size=batch_size),
        students=spans,
        make_optimizer=partial(
            adam_by_kind, image_lr=how.image_lr, label_lr=how.label_lr, scale_lr=how.scale_lr
        ),
        steps=how.steps,
    )
