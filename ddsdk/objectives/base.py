"""Objectives: the protocol, the checks of their students, and batches of every class."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from ddsdk.data import Batch, Source
from ddsdk.foundation import derive
from ddsdk.synthetic import SyntheticView

S_contra = TypeVar("S_contra", contravariant=True)


class Objective(Protocol[S_contra]):
    """A loss of the synthetic set: terms whose gradients add."""

    def __call__(self, student: S_contra, real: Source, syn: SyntheticView, rng: torch.Generator) -> Iterable[Tensor]:
        """Yield scalars with graph to the images and labels of `syn`, one after another."""
        ...


def require_network(student: object) -> None:
    """Raise TypeError unless `student` is a network; a stretch of a trajectory is the usual mistake."""
    if not isinstance(student, nn.Module):
        raise TypeError(f"student must be a network, got {type(student).__name__}")


def embedding(student: object) -> Callable[[Tensor], Tensor]:
    """Return the student's `embed`, from images (B, C, H, W) to features (B, F).

    Raises:
        TypeError: If it has none.
    """
    embed: Callable[[Tensor], Tensor] | None = getattr(student, "embed", None)
    if embed is None:
        raise TypeError(f"student must have a method embed(x) -> (B, F), got {type(student).__name__}")
    return embed


def joined(batches: Iterable[Batch]) -> Batch:
    """Return several batches as one."""
    x, y = zip(*batches, strict=True)
    return Batch(torch.cat(x), torch.cat(y))


def of_each_class(real: Source, n: int, rng: torch.Generator) -> Batch:
    """Return at most `n` real images of each class, class by class."""
    return joined(real.of_class(c, n, derive(rng, c)) for c in range(real.num_classes))
