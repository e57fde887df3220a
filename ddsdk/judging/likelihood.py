"""The likelihood-ratio attack on a distiller: many runs on random halves, and what in and out look like in them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from ddsdk.data import RealData
from ddsdk.foundation import derive, require_count, root
from ddsdk.judging.membership import Distiller, Roc, known_confidences, nearest_distances, roc, unit_images
from ddsdk.training import Evaluation

_TRIALS = 20


@final
@dataclass(frozen=True, kw_only=True)
class LikelihoodRatio:
    """Success of the attack, over all runs and records.

    Attributes:
        runs: Number of runs of the distiller.
        records: Number of records.
        confidence: Success by confidences of networks that train on the set.
        distance: Success by the distance to the nearest image.
    """

    runs: int
    records: int
    confidence: Roc
    distance: Roc


def audit_by_likelihood(
    distil: Distiller,
    records: RealData,
    *,
    seed: int | torch.Generator = 0,
    runs: int = 16,
    networks: int = 2,
    evaluation: Evaluation | None = None,
) -> LikelihoodRatio:
    """Distil random halves of the records again and again; attack each run with what the others show.

    The unit is the distiller: each run distils anew, selections and starts included. 64 runs are a measurement, 16 a
    smoke test.

    Args:
        distil: Function from records and a generator to the set.
        records: Records, all of which are scored.
        seed: Seed, or generator, of halves, runs and networks.
        runs: Number of runs, at least 4.
        networks: Networks that are trained on each set.
        evaluation: Protocol of their training; None takes that of the set.

    References:
        Carlini et al., "Membership Inference Attacks From First Principles", S&P 2022.
    """
    require_count("runs", runs, least=4)
    rng = root(seed)
    pixels = unit_images(records)
    inside, known, near = [], [], []
    for i in range(runs):
        key = derive(rng, "run", i)
        kept = _half(records, derive(key, "half"))
        distilled = distil(records.subset(torch.nonzero(kept).flatten()), derive(key, "distil"))
        inside.append(kept)
        known.append(known_confidences(distilled, records, evaluation, networks, derive(key, "networks")))
        near.append(-nearest_distances(distilled.unit_images().cpu(), pixels))
    members = torch.stack(inside)
    curves = []
    for scores in (torch.stack(known), torch.stack(near).double()):
        ratios = likelihood_ratios(scores, members)
        curves.append(roc(ratios[members], ratios[~members]))
    return LikelihoodRatio(runs=runs, records=len(records), confidence=curves[0], distance=curves[1])


def _half(records: RealData, rng: torch.Generator) -> Tensor:
    """Return a random half that has a record of each class, (N,) bool."""
    for trial in range(_TRIALS):
        kept = torch.rand(len(records), generator=derive(rng, trial)) < 0.5
        if all(bool(kept[records.index_of_class(c)].any()) for c in range(records.num_classes)):
            return kept
    raise ValueError(f"records must have enough of each class for halves, got {records.class_sizes}")


def likelihood_ratios(scores: Tensor, members: Tensor) -> Tensor:
    """Return log N(score; in) - log N(score; out) of each record in each run, (R, N), from the other runs.

    Means are those of the record, standard deviations those of all records: a few runs do not give them for each.

    Args:
        scores: Scores (R, N), higher where the record is likely to be in the run.
        members: Booleans (R, N): whether the record was in the run.
    """
    found = torch.empty_like(scores)
    for i in range(len(scores)):
        others = torch.arange(len(scores)) != i
        parts = []
        for where in (members[others], ~members[others]):
            count = where.sum(0)
            # A record that was never there has the mean of all that were.
            usual = (scores[others] * where).sum() / where.sum()
            mean = torch.where(count > 0, (scores[others] * where).sum(0) / count.clamp_min(1), usual)
            spread = (((scores[others] - mean).square() * where).sum() / where.sum()).sqrt().clamp_min(1e-9)
            parts.append(-0.5 * ((scores[i] - mean) / spread).square() - spread.log())
        found[i] = parts[0] - parts[1]
    return found
