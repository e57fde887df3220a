"""What a supply of students is."""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

import torch

from ddsdk.data import Source
from ddsdk.synthetic import SyntheticSet

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
