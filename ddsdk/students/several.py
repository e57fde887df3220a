"""Several students at once, each from a supply of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, TypeVar, final

import torch

from ddsdk.data import Source
from ddsdk.foundation import derive, require
from ddsdk.students.supply import Students
from ddsdk.synthetic import SyntheticSet

S = TypeVar("S")


@final
class Several(Generic[S]):
    """A step sees one student of each of some supplies, as a tuple.

    Args:
        supplies: At least one.

    Raises:
        ValueError: If there are none.
    """

    def __init__(self, supplies: Sequence[Students[S]]) -> None:
        require(len(supplies) >= 1, "supplies", "hold at least one", len(supplies))
        self._supplies = tuple(supplies)

    def next(self, real: Source, syn: SyntheticSet, rng: torch.Generator) -> tuple[S, ...]:
        """Return the students of the next step."""
        return tuple(s.next(real, syn, derive(rng, "one of several", i)) for i, s in enumerate(self._supplies))

    def state_dict(self) -> dict[str, Any]:
        """Return the states of all supplies."""
        return {"supplies": [supply.state_dict() for supply in self._supplies]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        for supply, own in zip(self._supplies, state["supplies"], strict=True):
            supply.load_state_dict(own)
