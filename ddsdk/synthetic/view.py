"""The interface of a synthetic set for objectives."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from ddsdk.data import Batch


class SyntheticView(Protocol):
    """Interface of a synthetic set in one step of an objective: batches of images and labels with graph.

    `ddsdk.synthetic.LeafView` is the view of a run.
    """

    @property
    def num_classes(self) -> int:
        """Number of classes, K."""
        ...

    @property
    def device(self) -> torch.device:
        """Device of the synthetic set."""
        ...

    @property
    def rate(self) -> Tensor:
        """Learned learning rate with graph: a scalar, or one value for each step, see `ddsdk.training.Unroll`.

        Raises:
            ValueError: If the set has no learned learning rate.
        """
        ...

    @property
    def scale(self) -> Tensor:
        """Learned factor on scores before a softmax, a scalar with graph.

        Raises:
            ValueError: If the set has no learned factor.
        """
        ...

    def slots_of_class(self, c: int) -> Tensor:
        """Return the slots of class `c`, (n,) int64."""
        ...

    def of_class(self, c: int, n: int, rng: torch.Generator) -> Batch:
        """Return the images and labels of at most `n` slots of class `c`, drawn without replacement."""
        ...

    def mixed(self, n: int, rng: torch.Generator) -> Batch:
        """Return the images and labels of at most `n` slots of any class, drawn without replacement."""
        ...

    def at(self, slots: Tensor, rng: torch.Generator) -> Batch:
        """Return the images and labels of `slots`, (B,) int64."""
        ...

    def whole(self, rng: torch.Generator) -> Batch:
        """Return the images and labels of all slots in stored order."""
        ...
