"""Held-out training images that choose the best of a run's sets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from typing import final

import torch

from ddsdk.data import RealData
from ddsdk.foundation import derive, require_count
from ddsdk.judging.judge import evaluate
from ddsdk.networks import NETWORKS
from ddsdk.synthetic import SyntheticSet
from ddsdk.training import Evaluation


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
        width: Channels of the network, where it has a width.
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
        short = self._short(evaluation)

        def accuracy(syn: SyntheticSet) -> float:
            with torch.no_grad():
                batch = syn.at(torch.arange(len(syn)), derive(rng, "view"))
            learned = (None, None) if syn.rate is None else (syn.rate.rates, syn.rate.momenta)
            rated, pace = short.with_learned(*learned)
            return evaluate(batch, self.held, rated, seed=rng, pace=pace).mean

        return accuracy

    def _short(self, evaluation: Evaluation) -> Evaluation:
        if evaluation.learner == "kernel":
            return evaluation
        wide = "width" in signature(NETWORKS[evaluation.network]).parameters
        # In the stored order each step may have a rate of its own: there are as many steps as rates.
        epochs = evaluation.epochs if evaluation.order == "stored" else min(self.epochs, evaluation.epochs)
        options = {"width": self.width} if wide else {}
        return evaluation.changed(options=options, epochs=epochs, networks=self.networks)
