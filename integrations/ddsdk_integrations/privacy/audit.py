"""Audit a distiller: can its sets tell who was among the records?

A failed audit refutes a claim. A passed one proves nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor

import ddsdk as dd
from ddsdk.foundation import derive, require, require_count, root
from ddsdk.judging import Distiller, Roc, joined, known_confidences, nearest_distances, roc, unit_images
from ddsdk_integrations.privacy.bounds import one_run_bound

Score = Literal["confidence", "distance"]
_SHARES = (0.05, 0.1, 0.25, 0.5, 1.0)


@final
@dataclass(frozen=True, kw_only=True)
class OneRun:
    """Result of an audit with canaries in one run.

    Attributes:
        epsilon: Lower bound on epsilon; wrong with probability `level` at most.
        ceiling: Largest bound that an audit with so many canaries can show.
        score: Score that showed the bound.
        guesses: Number of canaries that were guessed.
        right: Number of right guesses.
        canaries: Number of canaries, each among the records by a fair coin.
        delta: Delta at which the bound holds.
        level: Probability with which the bound may be wrong.
        scores: Curve of each score, which tells canaries that were in from those that were not.
    """

    epsilon: float
    ceiling: float
    score: Score
    guesses: int
    right: int
    canaries: int
    delta: float
    level: float
    scores: Mapping[Score, Roc]

    def refutes(self, epsilon: float) -> bool:
        """Tell whether a claim of this epsilon is refuted. If not, nothing is proved."""
        return self.epsilon > epsilon

    def __str__(self) -> str:
        return (
            f"epsilon is at least {self.epsilon:.2f} ({100 * (1 - self.level):g} % confidence; with {self.canaries} "
            f"canaries this one can show {self.ceiling:.2f} at most): {self.right} of {self.guesses} guesses by "
            f"{self.score} were right. Passing an audit is no proof of privacy."
        )


def mislabelled(records: dd.RealData, rng: torch.Generator) -> dd.RealData:
    """Return the images under wrong labels: canaries that nothing but memory of them explains.

    Args:
        records: Images that are not among those to be distilled.
        rng: Generator of another class for each.
    """
    require(records.num_classes > 1, "records", "have 2 classes", records.num_classes)
    shift = torch.randint(1, records.num_classes, (len(records),), generator=rng).to(records.device)
    return records.with_items(records.images, (records.labels + shift) % records.num_classes)


def audit_in_one_run(
    distil: Distiller,
    records: dd.RealData,
    canaries: dd.RealData,
    *,
    delta: float,
    seed: int | torch.Generator = 0,
    networks: int = 3,
    evaluation: dd.Evaluation | None = None,
    level: float = 0.05,
) -> OneRun:
    """Distil once, with each canary among the records by a fair coin, and guess the coins from the set alone.

    The canaries enter before anything else does: they count for samples, starts and selections like any record. Guesses
    are made by the confidence of networks that train on the set, and by the distance to its nearest image, for several
    numbers of guesses; `level` is divided among all of these.

    Args:
        distil: Function of records and a generator that returns the set; selections and starts included.
        records: Records of the run, beside the canaries.
        canaries: Records that the audit guesses, such as `mislabelled` ones. An (epsilon, delta) claim holds for any.
        delta: Delta of the claim.
        seed: Root of coins, run and networks: an integer, or a generator, which is not advanced.
        networks: Number of networks that train on the set.
        evaluation: Protocol of their training; None takes that of the set.
        level: Probability with which the bound may be wrong.

    References:
        Steinke, Nasr and Jagielski, "Privacy Auditing with One (1) Training Run", NeurIPS 2023.
    """
    rng = root(seed)
    require_count("networks", networks)
    require(0 < delta < 1, "delta", "lie strictly between 0 and 1", delta)
    require(0 < level < 1, "level", "lie strictly between 0 and 1", level)
    kept = torch.rand(len(canaries), generator=derive(rng, "coins")) < 0.5
    require(0 < int(kept.sum()) < len(kept), "canaries", "be enough for coins to differ", len(canaries))
    distilled = distil(joined(records, canaries, torch.nonzero(kept).flatten()), derive(rng, "run"))
    found: dict[Score, Tensor] = {
        "confidence": known_confidences(distilled, canaries, evaluation, networks, derive(rng, "networks")),
        "distance": -nearest_distances(distilled.unit_images().cpu(), unit_images(canaries)),
    }
    plans = _guess_plans(len(canaries))
    share = level / (len(found) * len(plans))
    bounds = []
    for name, score in found.items():
        order = score.argsort(descending=True)
        for top, bottom in plans:
            right = int(kept[order[:top]].sum()) + int((~kept[order[len(order) - bottom :]]).sum())
            bound = one_run_bound(right, top + bottom, len(canaries), delta=delta, level=share)
            bounds.append((bound, name, top + bottom, right))
    best, score_name, guesses, right = max(bounds, key=lambda one: one[0])
    return OneRun(
        epsilon=best.epsilon,
        ceiling=max(bound.ceiling for bound, *_ in bounds),
        score=score_name,
        guesses=guesses,
        right=right,
        canaries=len(canaries),
        delta=delta,
        level=level,
        scores={name: roc(score[kept], score[~kept]) for name, score in found.items()},
    )


def _guess_plans(canaries: int) -> list[tuple[int, int]]:
    """Return how many of the highest scores are guessed to be in, and of the lowest to be out: as many, or in alone.

    A set that copies some of its records tells surely that those were in, and nothing of the rest.
    """
    half = sorted({max(1, round(share * canaries / 2)) for share in _SHARES})
    return [(n, n) for n in half if 2 * n <= canaries] + [(n, 0) for n in half]
