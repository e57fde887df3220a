"""The likelihood-ratio attack on a distillation method, with many runs on random halves of the records.

The scores of a record are compared between the runs that distilled it and those that did not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from ddsdk.data import RealData
from ddsdk.foundation import as_generator, derive, require_count
from ddsdk.judging.membership import DistillFunction, Roc, nearest_distances, record_confidences, roc, unit_images
from ddsdk.training import TrainingProtocol

_TRIALS = 20


@final
@dataclass(frozen=True, kw_only=True)
class LikelihoodRatio:
    """Success of the likelihood-ratio attack, over all runs and records.

    Attributes:
        runs: Number of runs of the distiller.
        records: Number of attacked records.
        confidence: Success with the confidences of networks that are trained on the sets as scores.
        distance: Success with the distance to the nearest synthetic image as score.
    """

    runs: int
    records: int
    confidence: Roc
    distance: Roc


def audit_by_likelihood(
    distil: DistillFunction,
    records: RealData,
    *,
    seed: int | torch.Generator = 0,
    runs: int = 16,
    networks: int = 2,
    protocol: TrainingProtocol | None = None,
) -> LikelihoodRatio:
    """Measure the membership-inference risk of a distiller by the likelihood-ratio attack.

    Each run distils a random half of the records, including all selections and starts from real data. The attack on
    the members of a run is calibrated on the other runs. 64 runs give a measurement, 16 runs a smoke test.

    Args:
        distil: Function from records and a generator to the distilled set.
        records: Records of which half are distilled in each run; all are attacked.
        seed: Root of all random numbers: an integer, or a generator, which is not advanced.
        runs: Number of runs, at least 4.
        networks: Number of networks that are trained on each set.
        protocol: Protocol of training these networks. None for the protocol of the set.

    Returns:
        The success of the attack with each of two scores.

    Examples:
        >>> import ddsdk, torch
        >>> records = ddsdk.load("digits").subset(torch.arange(60))
        >>> protocol = ddsdk.TrainingProtocol(name="short", epochs=1, networks=1).changed(options={"width": 4})
        >>> def distil(real, rng):
        ...     return ddsdk.distill(ddsdk.BASELINES["means"](ipc=1), real, seed=rng)
        >>> ddsdk.audit_by_likelihood(distil, records, runs=4, networks=1, protocol=protocol).records
        60

    References:
        Carlini et al., "Membership Inference Attacks From First Principles", S&P 2022.
    """
    require_count("runs", runs, least=4)
    rng = as_generator(seed)
    pixels = unit_images(records)
    halves, confidence_scores, distance_scores = [], [], []
    for i in range(runs):
        run_rng = derive(rng, "run", i)
        half = _half(records, derive(run_rng, "half"))
        distilled = distil(records.subset(torch.nonzero(half).flatten()), derive(run_rng, "distil"))
        halves.append(half)
        confidence_scores.append(
            record_confidences(distilled, records, protocol, networks, derive(run_rng, "networks"))
        )
        distance_scores.append(-nearest_distances(distilled.unit_images().cpu(), pixels))
    members = torch.stack(halves)
    curves = []
    for scores in (torch.stack(confidence_scores), torch.stack(distance_scores).double()):
        ratios = likelihood_ratios(scores, members)
        curves.append(roc(ratios[members], ratios[~members]))
    return LikelihoodRatio(runs=runs, records=len(records), confidence=curves[0], distance=curves[1])


def _half(records: RealData, rng: torch.Generator) -> Tensor:
    """Return the members (N,) bool of a random half with at least one record of each class.

    Raises:
        ValueError: If 20 random halves have all left out a class.
    """
    for trial in range(_TRIALS):
        half = torch.rand(len(records), generator=derive(rng, trial)) < 0.5
        if all(bool(half[records.index_of_class(c)].any()) for c in range(records.num_classes)):
            return half
    raise ValueError(f"records must have enough of each class for halves, got {records.class_sizes}")


def likelihood_ratios(scores: Tensor, members: Tensor) -> Tensor:
    """Return log N(score; in) - log N(score; out) of each record in each run, (R, N), fitted to the other runs.

    The two normal distributions have a mean for each record and a standard deviation common to all records, because a
    few runs do not suffice for a deviation of each record.

    Args:
        scores: Scores (R, N) of R runs, higher for likely members.
        members: Booleans (R, N), true for the records that the run distilled.
    """
    ratios = torch.empty_like(scores)
    for i in range(len(scores)):
        others = torch.arange(len(scores)) != i
        log_densities = []
        for mask in (members[others], ~members[others]):
            count = mask.sum(0)
            # A record that no other run has in (or out) gets the mean over all records.
            overall_mean = (scores[others] * mask).sum() / mask.sum()
            mean = torch.where(count > 0, (scores[others] * mask).sum(0) / count.clamp_min(1), overall_mean)
            spread = (((scores[others] - mean).square() * mask).sum() / mask.sum()).sqrt().clamp_min(1e-9)
            log_densities.append(-0.5 * ((scores[i] - mean) / spread).square() - spread.log())
        ratios[i] = log_densities[0] - log_densities[1]
    return ratios
