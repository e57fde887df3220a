"""Stretches of one trajectory of weights, for trajectory matching."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

import ddsdk as dd
from ddsdk.inner.flat import FlatNetwork

__all__ = ["Spans"]


@final
@dataclass(frozen=True)
class Spans:
    """A random stretch for every step.

    Attributes:
        network: The architecture, as a function of weights and images.
        weights: The trajectory, (P,) each.
        span: Entries from the start of a stretch to its end.
    """

    network: FlatNetwork
    weights: tuple[Tensor, ...]
    span: int

    def next(self, real: dd.Source, syn: dd.Source, rng: torch.Generator) -> dd.ExpertSpan:  # noqa: ARG002
        """Return a stretch; its start is uniform."""
        start = int(torch.randint(len(self.weights) - self.span, (), generator=rng))
        return dd.ExpertSpan(self.network, self.weights[start], self.weights[start + self.span])

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: all is given at the start."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back nothing."""
