"""Held-out training images that choose the best of a run's sets."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch

from ddsdk.data.sources import RealData
from ddsdk.errors import require_count
from ddsdk.evaluation import Evaluation
from ddsdk.judge import evaluate
from ddsdk.rng import derive
from ddsdk.synthetic.set import SyntheticSet

__all__ = ["Validation"]


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Validation:
    """Judge the sets of a run on images that are not distilled, and keep the best.

    The protocol is that of the recipe with a narrower network and fewer epochs, so its figures rank the sets of a run
    and are not those of a table.

    Attributes:
        held: Held-out training images, see `ddsdk.RealData.split`. They must not be part of what is distilled.
        every: Steps between two looks.
        epochs: Passes of a network over the set, unless the protocol has fewer.
        width: Channels of the network.
        networks: Networks that are trained for each look, the same fresh ones for all.
    """

    held: RealData
    every: int = 100
    epochs: int = 300
    width: int = 64
    networks: int = 1

    def __post_init__(self) -> None:
        for name in ("every", "epochs", "width", "networks"):
            require_count(name, getattr(self, name))

    def under(self, evaluation: Evaluation, *, rng: torch.Generator) -> Callable[[SyntheticSet], float]:
        """Return what gives the accuracy, 0..1, of fresh networks that were trained on a set.

        Args:
            evaluation: The recipe's protocol.
            rng: Each look takes the same initial weights and order from it, so that looks differ by the set alone.
        """
        short = evaluation.changed(
            options={"width": self.width},
            epochs=min(self.epochs, evaluation.epochs),
            networks=self.networks,
        )

        def accuracy(syn: SyntheticSet) -> float:
            with torch.no_grad():
                batch = syn.at(torch.arange(len(syn)), derive(rng, "view"))
            rated = (
                short if syn.rate is None else dataclasses.replace(short, lr=float(syn.rate.value.detach()))
            )
            return evaluate(batch, self.held, rated, rng=rng).mean

        return accuracy
