"""Students at their initialisation: a new random network for every step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ddsdk.data.sources import Source
from ddsdk.networks.norms import calibrate_batch_norm_, has_batch_norm
from ddsdk.rng import derive

__all__ = ["FreshStudents", "MakeStudent", "enrol"]

MakeStudent = Callable[[torch.Generator], nn.Module]
"""Builds a network whose parameters depend on the generator alone."""


def enrol(make_student: MakeStudent, real: Source, rng: torch.Generator) -> nn.Module:
    """Make a student on the device of the data.

    BatchNorm layers take their statistics from 16 real images of each class and keep them: class-wise
    batches of a few images have none that could be used (as in the code of DC).
    """
    student = make_student(derive(rng, "init")).to(real.device)
    if has_batch_norm(student):
        batches = [real.of_class(c, 16, derive(rng, "batch-norm", c)).x for c in range(real.num_classes)]
        calibrate_batch_norm_(student, torch.cat(batches))
    return student


class FreshStudents:
    """A new random network for every step; its parameters are constants.

    Args:
        make_student: Builds a network from a generator.
    """

    def __init__(self, make_student: MakeStudent) -> None:
        self._make_student = make_student

    def next(self, real: Source, syn: Source, rng: torch.Generator) -> nn.Module:  # noqa: ARG002
        """Return a new network."""
        return enrol(self._make_student, real, rng).requires_grad_(False)

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: there is no memory from one step to the next."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
