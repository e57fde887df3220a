"""Validation of the sets of a run on held-out training images, which selects the best set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch

from ddsdk.data import RealData
from ddsdk.foundation import CheckedDataclass, PositiveInt, derive
from ddsdk.judging.judge import evaluation_steps, last_score, reduced_protocol
from ddsdk.judging.training_set import TrainingSet
from ddsdk.networks import Backbone
from ddsdk.synthetic import SyntheticSet
from ddsdk.training import TrainingProtocol


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Validation(CheckedDataclass):
    """Validation of the sets of a run on held-out images, from the start on; the best set becomes the result.

    The protocol is that of the recipe with a narrower network and fewer epochs. Its accuracies rank the sets of a run,
    and are not comparable with those of the full protocol.

    Attributes:
        held: Held-out training images, see `ddsdk.RealData.split`. They must not be among the distilled images.
        every: Number of steps between two validations.
        epochs: Largest number of epochs of a network on the set.
        width: Number of channels of the network, if it has a width.
        networks: Number of fresh networks for each validation, with equal initial weights in all validations.
        backbone: Backbone of a run whose protocol probes, see `ddsdk.judging.TrainingSet`. None for other protocols.

    Examples:
        >>> import ddsdk
        >>> train, held = ddsdk.load("digits").split(0.2, ddsdk.generator(0))
        >>> validation = ddsdk.Validation(held=held, every=1, epochs=1, width=4)
        >>> recipe = ddsdk.DM(ipc=1, steps=2, real_batch=8)
        >>> distilled = ddsdk.distill(recipe, train, validation=validation)
        >>> distilled.provenance["best_step"] in (0, 1, 2)
        True
    """

    held: RealData
    every: PositiveInt = 100
    epochs: PositiveInt = 300
    width: PositiveInt = 64
    networks: PositiveInt = 1
    backbone: Backbone | None = None

    def under(self, protocol: TrainingProtocol, *, rng: torch.Generator) -> Callable[[SyntheticSet], float]:
        """Return the function from a set to the mean accuracy, in 0..1, of fresh networks that are trained on it.

        Args:
            protocol: Protocol of the recipe, which is reduced.
            rng: Generator of initial weights and batch order, which are equal for all sets; it is not advanced.
        """
        # A protocol with the stored order can have a learned rate for each step, and so needs all of its epochs.
        epochs = None if protocol.order == "stored" else self.epochs
        reduced = reduced_protocol(protocol, networks=self.networks, epochs=epochs, width=self.width)

        def accuracy(syn: SyntheticSet) -> float:
            with torch.no_grad():
                batch = syn.at(torch.arange(len(syn)), derive(rng, "view"))
            learned = (None, None) if syn.rate is None else (syn.rate.rates, syn.rate.momenta)
            training_set = TrainingSet(batch, *reduced.with_learned(*learned), backbone=self.backbone)
            return last_score(evaluation_steps(training_set, self.held, rng=rng)).mean

        return accuracy
