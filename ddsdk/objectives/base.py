"""What an objective is."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from ddsdk.data.sources import Source

__all__ = ["Objective", "require_network"]

S_contra = TypeVar("S_contra", contravariant=True)


class Objective(Protocol[S_contra]):
    """What is minimised: terms whose gradients add."""

    def __call__(
        self, student: S_contra, real: Source, syn: Source, rng: torch.Generator
    ) -> Iterable[Tensor]:
        """Yield scalars with graph to the images and labels of `syn`, one after another."""
        ...


def require_network(student: object) -> None:
    """Raise TypeError unless `student` is a network; a stretch of a trajectory is the usual mistake."""
    if not isinstance(student, nn.Module):
        raise TypeError(f"student must be a network, got {type(student).__name__}")
