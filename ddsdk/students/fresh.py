"""Students with random initial weights: a new network every step, or every few steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn

from ddsdk.data import Source, sample_indices
from ddsdk.foundation import derive, require, seeded_layers
from ddsdk.networks import built, calibrate_batch_norm_, has_batch_norm
from ddsdk.synthetic import SyntheticSet

M = TypeVar("M", bound=nn.Module)
_CALIBRATION_CLASSES = 100
"""Largest number of classes whose images set the statistics of BatchNorm layers."""

MakeStudent = Callable[[torch.Generator], nn.Module]
"""Factory of a network whose parameters depend on the generator alone."""


def prepare_student(make_student: MakeStudent, real: Source, rng: torch.Generator) -> nn.Module:
    """Return a new student on the device of the data.

    BatchNorm layers get the statistics of 16 real images of each class and keep them, as in the code of DC: batches of
    a few images of one class have no useful statistics.
    """
    return calibrate(built(make_student, derive(rng, "init")).to(real.device), real, rng)


def calibrate(student: M, real: Source, rng: torch.Generator, images: int = 16) -> M:
    """Set the statistics of BatchNorm layers to those of real images, and freeze them.

    Args:
        student: Network, changed in place if it has BatchNorm layers.
        real: Source of the real images.
        rng: Root of the choice of images.
        images: Number of images of each class; of more than 100 classes, 100 random ones are used.

    Returns:
        The network itself.
    """
    if has_batch_norm(student):
        classes = sample_indices(torch.arange(real.num_classes), _CALIBRATION_CLASSES, derive(rng, "classes"))
        batches = [real.of_class(c, images, derive(rng, "batch-norm", c)).x for c in classes.tolist()]
        with seeded_layers(derive(rng, "layers")):
            calibrate_batch_norm_(student, torch.cat(batches))
    return student


class FreshStudents:
    """A supply of networks with random initial weights, which are never trained.

    Args:
        make_student: Factory of the networks.
        period: Number of steps before the next network is made.

    Examples:
        >>> import dataclasses, ddsdk
        >>> make_student = ddsdk.network_factory("convnet", (1, 8, 8), 10, width=4)
        >>> supply = ddsdk.students.FreshStudents(make_student, period=2)
        >>> swap = lambda plan: dataclasses.replace(plan, students=supply)
        >>> len(ddsdk.distill(ddsdk.DM(ipc=1, steps=2), ddsdk.load("digits"), transform=swap))
        10
    """

    def __init__(self, make_student: MakeStudent, *, period: int = 1) -> None:
        require(period >= 1, "period", "be at least 1", period)
        self._make_student, self._period = make_student, period
        self._served, self._seed = 0, 0
        self._student: nn.Module | None = None

    def next(self, real: Source, syn: SyntheticSet, rng: torch.Generator) -> nn.Module:  # noqa: ARG002
        """Return a new network, or the present one within its period."""
        if self._served % self._period == 0:
            self._seed, self._student = rng.initial_seed(), None
        if self._student is None:
            key = torch.Generator().manual_seed(self._seed)
            self._student = prepare_student(self._make_student, real, key).requires_grad_(False)
        self._served += 1
        return self._student

    def state_dict(self) -> dict[str, Any]:
        """Return the step count and the seed of the present network; an empty dictionary for a period of 1."""
        return {} if self._period == 1 else {"served": self._served, "seed": self._seed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from the result of `state_dict`."""
        self._served, self._seed = state.get("served", 0), state.get("seed", 0)
        self._student = None
