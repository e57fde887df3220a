"""Students at their initialisation: a new random network for every step, or every few."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn

from ddsdk.data import Source
from ddsdk.foundation import derive, require
from ddsdk.networks import calibrate_batch_norm_, has_batch_norm
from ddsdk.synthetic import SyntheticSet

M = TypeVar("M", bound=nn.Module)

MakeStudent = Callable[[torch.Generator], nn.Module]
"""Builds a network whose parameters depend on the generator alone."""


def enrol(make_student: MakeStudent, real: Source, rng: torch.Generator) -> nn.Module:
    """Make a student on the device of the data.

    BatchNorm layers take their statistics from 16 real images of each class and keep them: class-wise
    batches of a few images have none that could be used (as in the code of DC).
    """
    return calibrate(make_student(derive(rng, "init")).to(real.device), real, rng)


def calibrate(student: M, real: Source, rng: torch.Generator, images: int = 16) -> M:
    """Fix the statistics of BatchNorm layers, if there are any, to those of real images; return the student.

    Args:
        student: Network that is changed in place.
        real: Source of the images.
        rng: Root of the draw.
        images: Images of each class.
    """
    if has_batch_norm(student):
        batches = [real.of_class(c, images, derive(rng, "batch-norm", c)).x for c in range(real.num_classes)]
        calibrate_batch_norm_(student, torch.cat(batches))
    return student


class FreshStudents:
    """A new random network for every step, or every few; its parameters are constants.

    Args:
        make_student: Factory of the networks.
        period: Steps for which one network serves.
    """

    def __init__(self, make_student: MakeStudent, *, period: int = 1) -> None:
        require(period >= 1, "period", "be at least 1", period)
        self._make_student, self._period = make_student, period
        self._served, self._seed = 0, 0
        self._student: nn.Module | None = None

    def next(self, real: Source, syn: SyntheticSet, rng: torch.Generator) -> nn.Module:  # noqa: ARG002
        """Return a new network, or the present one."""
        if self._served % self._period == 0:
            self._seed, self._student = rng.initial_seed(), None
        if self._student is None:
            key = torch.Generator().manual_seed(self._seed)
            self._student = enrol(self._make_student, real, key).requires_grad_(False)
        self._served += 1
        return self._student

    def state_dict(self) -> dict[str, Any]:
        """Return the seed of the present network; nothing where each serves for one step."""
        return {} if self._period == 1 else {"served": self._served, "seed": self._seed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where `state_dict` was taken."""
        self._served, self._seed = state.get("served", 0), state.get("seed", 0)
        self._student = None
