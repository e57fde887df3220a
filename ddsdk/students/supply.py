"""Supplies of students: the protocol, and several supplies at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, Protocol, TypeVar, final

import torch

from ddsdk.data import Source
from ddsdk.foundation import derive, require
from ddsdk.synthetic import SyntheticSet

S = TypeVar("S")
S_co = TypeVar("S_co", covariant=True)


class Students(Protocol[S_co]):
    """A supply of students: the main difference between papers."""

    def next(self, real: Source, syn: SyntheticSet, rng: torch.Generator) -> S_co:
        """Return the student of the next step."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return tensors, numbers and strings that `load_state_dict` needs to go on from here."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where `state_dict` was taken."""
        ...


@final
class Several(Generic[S]):
    """One student of each of several supplies in every step, as a tuple.

    Args:
        supplies: One supply or more.
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
        """Go on from where `state_dict` was taken."""
        for supply, own in zip(self._supplies, state["supplies"], strict=True):
            supply.load_state_dict(own)
