"""The interface of objectives, checks of their students, and batches of all classes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from ddsdk.data import Batch, Source
from ddsdk.foundation import derive
from ddsdk.networks import embedding as embedding
from ddsdk.synthetic import SyntheticView

S_contra = TypeVar("S_contra", contravariant=True)


class Objective(Protocol[S_contra]):
    """A loss of the synthetic set: the sum of terms that are differentiated one after another."""

    def __call__(self, student: S_contra, real: Source, syn: SyntheticView, rng: torch.Generator) -> Iterable[Tensor]:
        """Yield the terms, scalars with graph to the images and labels of `syn`.

        Args:
            student: Student of the step, such as a network or an expert segment.
            real: Real data of the distillation.
            syn: Synthetic set of the present step.
            rng: Root of the random numbers of this step.
        """
        ...


def require_network(student: object) -> None:
    """Check that a student is a network; an expert segment is the usual mistake.

    Raises:
        TypeError: If `student` is no ``nn.Module``.
    """
    if not isinstance(student, nn.Module):
        raise TypeError(f"student must be a network, got {type(student).__name__}")


def joined(batches: Iterable[Batch]) -> Batch:
    """Return several batches as one."""
    x, y = zip(*batches, strict=True)
    return Batch(torch.cat(x), torch.cat(y))


def of_each_class(real: Source, n: int, rng: torch.Generator) -> Batch:
    """Return at most `n` real images of each class, class by class."""
    return joined(real.of_class(c, n, derive(rng, c)) for c in range(real.num_classes))
