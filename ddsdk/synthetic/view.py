"""The view of a synthetic set that an objective gets for one step."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from ddsdk.data import Batch


class SyntheticView(Protocol):
    """The synthetic set for an objective: items with graph, by class, mixed, by slot, or whole.

    `ddsdk.synthetic.Leaves` is the view of a run.
    """

    @property
    def num_classes(self) -> int:
        """Number of classes K."""
        ...

    @property
    def device(self) -> torch.device:
        """Device of the set."""
        ...

    @property
    def rate(self) -> Tensor:
        """Learned learning rate with graph: a scalar, or one value for each step as `ddsdk.training.Unroll` takes it.

        Raises:
            ValueError: If the set learns none.
        """
        ...

    @property
    def scale(self) -> Tensor:
        """Learned factor on scores before a softmax, a scalar with graph.

        Raises:
            ValueError: If the set learns none.
        """
        ...

    def slots_of_class(self, c: int) -> Tensor:
        """Return the slots of class `c`, (n,) int64."""
        ...

    def of_class(self, c: int, n: int, rng: torch.Generator) -> Batch:
        """Decode at most `n` slots of class `c`, drawn without replacement."""
        ...

    def mixed(self, n: int, rng: torch.Generator) -> Batch:
        """Decode at most `n` slots of any class, drawn without replacement."""
        ...

    def at(self, slots: Tensor, rng: torch.Generator) -> Batch:
        """Decode `slots`, (B,) int64."""
        ...

    def whole(self, rng: torch.Generator) -> Batch:
        """Decode all slots in stored order."""
        ...
