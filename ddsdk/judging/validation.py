"""Held-out training images that choose the best of a run's sets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch

from ddsdk.data import RealData
from ddsdk.foundation import Checked, PositiveInt, derive
from ddsdk.judging.judge import evaluate, shortened
from ddsdk.synthetic import SyntheticSet
from ddsdk.training import Evaluation


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Validation(Checked):
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
    every: PositiveInt = 100
    epochs: PositiveInt = 300
    width: PositiveInt = 64
    networks: PositiveInt = 1

    def under(self, evaluation: Evaluation, *, rng: torch.Generator) -> Callable[[SyntheticSet], float]:
        """Return the function from a set to the accuracy, 0..1, of fresh networks that are trained on it.

        Args:
            evaluation: Protocol of the recipe.
            rng: Generator of the initial weights and order, which are those of all sets.
        """
        # In the stored order each step may have a rate of its own: there are as many steps as rates.
        epochs = None if evaluation.order == "stored" else self.epochs
        short = shortened(evaluation, networks=self.networks, epochs=epochs, width=self.width)

        def accuracy(syn: SyntheticSet) -> float:
            with torch.no_grad():
                batch = syn.at(torch.arange(len(syn)), derive(rng, "view"))
            learned = (None, None) if syn.rate is None else (syn.rate.rates, syn.rate.momenta)
            rated, pace = short.with_learned(*learned)
            return evaluate(batch, self.held, rated, seed=rng, pace=pace).mean

        return accuracy
