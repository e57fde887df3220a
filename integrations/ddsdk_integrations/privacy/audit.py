"""Audit of a distillation method: membership inference on the set gives a lower bound on epsilon.

A bound above the claimed epsilon refutes the claim. A bound below it proves nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor

import ddsdk as dd
from ddsdk.foundation import as_generator, derive, require, require_count
from ddsdk.judging import DistillFunction, Roc, nearest_distances, record_confidences, roc, unit_images, with_canaries
from ddsdk_integrations.privacy.bounds import one_run_bound

AuditScore = Literal["confidence", "distance"]
_GUESSED_SHARES = (0.05, 0.1, 0.25, 0.5, 1.0)


@final
@dataclass(frozen=True, kw_only=True)
class OneRunAudit:
    """Result of an audit with canaries in one run.

    Attributes:
        epsilon: Lower bound on epsilon; wrong with probability `level` at most.
        ceiling: Largest bound that an audit with this number of canaries can reach.
        score: Score with the largest bound: ``"confidence"`` or ``"distance"``.
        guesses: Number of canaries with a guess under that score.
        right: Number of correct guesses among `guesses`.
        canaries: Number of canaries; a fair coin put each one into the records or left it out.
        delta: Delta at which the bound holds.
        level: Probability, in 0 < value < 1, with which the bound may be wrong.
        scores: ROC figures of each score; positives are the canaries among the records.
    """

    epsilon: float
    ceiling: float
    score: AuditScore
    guesses: int
    right: int
    canaries: int
    delta: float
    level: float
    scores: Mapping[AuditScore, Roc]

    def refutes(self, epsilon: float) -> bool:
        """Return whether the audit refutes a claimed epsilon; False proves nothing."""
        return self.epsilon > epsilon

    def __str__(self) -> str:
        return (
            f"epsilon is at least {self.epsilon:.2f} ({100 * (1 - self.level):g} % confidence; the largest bound with "
            f"{self.canaries} canaries is {self.ceiling:.2f}): {self.right} of {self.guesses} guesses by "
            f"{self.score} were right. Passing an audit is no proof of privacy."
        )


def mislabelled(records: dd.RealData, rng: torch.Generator) -> dd.RealData:
    """Return the images with wrong labels: canaries that a model predicts only if it has memorised them.

    At least 2 classes are needed.

    Args:
        records: Labelled images that are not among the records of the run.
        rng: Generator of the wrong classes.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.privacy import mislabelled
        >>> train, test = ddsdk.load_pair("digits")
        >>> canaries = mislabelled(test, ddsdk.generator("canaries"))
        >>> bool((canaries.labels == test.labels).any())
        False
    """
    require(records.num_classes > 1, "records", "have 2 classes", records.num_classes)
    shift = torch.randint(1, records.num_classes, (len(records),), generator=rng).to(records.device)
    return records.with_items(records.images, (records.labels + shift) % records.num_classes)


def audit_in_one_run(
    distil: DistillFunction,
    records: dd.RealData,
    canaries: dd.RealData,
    *,
    delta: float,
    seed: int | torch.Generator = 0,
    networks: int = 3,
    protocol: dd.TrainingProtocol | None = None,
    level: float = 0.05,
) -> OneRunAudit:
    """Return a lower bound on epsilon from one distillation with canaries that a fair coin includes or leaves out.

    Guesses about the coins use the set alone: the confidence of networks trained on the set, and the distance of a
    canary to the nearest synthetic image. Several numbers of guesses are tried; `level` is divided among all of them.
    Canaries count for samples, initial images and selections like any record.

    Args:
        distil: Function from records and a generator to the distilled set, including initialisation and selection.
        records: Records of the run without the canaries.
        canaries: Records whose membership is guessed, such as `mislabelled` ones; an (epsilon, delta) guarantee covers
            every record, so any may serve.
        delta: Delta of the claimed guarantee.
        seed: Root of coins, run and networks: an integer, or a generator, which is not advanced.
        networks: Number of networks that train on the set.
        protocol: Protocol of their training; None takes the protocol of the set.
        level: Probability, in 0 < value < 1, with which the bound may be wrong.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.privacy import audit_in_one_run, mislabelled
        >>> train, test = ddsdk.load_pair("digits")
        >>> canaries = mislabelled(test, ddsdk.generator("canaries"))
        >>> random_images = lambda real, rng: ddsdk.distill(ddsdk.baselines.Random(ipc=1), real, seed=rng)
        >>> protocol = ddsdk.TrainingProtocol(epochs=2, network_options={"width": 4})
        >>> audit = audit_in_one_run(random_images, train, canaries, delta=1e-5, networks=1, protocol=protocol)
        >>> audit.canaries
        450

    References:
        Steinke, Nasr and Jagielski, "Privacy Auditing with One (1) Training Run", NeurIPS 2023.
    """
    rng = as_generator(seed)
    require_count("networks", networks)
    require(0 < delta < 1, "delta", "lie strictly between 0 and 1", delta)
    require(0 < level < 1, "level", "lie strictly between 0 and 1", level)
    included = torch.rand(len(canaries), generator=derive(rng, "coins")) < 0.5
    require(0 < int(included.sum()) < len(included), "canaries", "be enough for coins to differ", len(canaries))
    distilled = distil(with_canaries(records, canaries, torch.nonzero(included).flatten()), derive(rng, "run"))
    scores: dict[AuditScore, Tensor] = {
        "confidence": record_confidences(distilled, canaries, protocol, networks, derive(rng, "networks")),
        "distance": -nearest_distances(distilled.unit_images().cpu(), unit_images(canaries)),
    }
    guess_counts = _guess_counts(len(canaries))
    # Bonferroni correction: the largest of these bounds is reported.
    level_each = level / (len(scores) * len(guess_counts))
    bounds = []
    for name, score in scores.items():
        order = score.argsort(descending=True)
        for top, bottom in guess_counts:
            right = int(included[order[:top]].sum()) + int((~included[order[len(order) - bottom :]]).sum())
            bound = one_run_bound(right, top + bottom, len(canaries), delta=delta, level=level_each)
            bounds.append((bound, name, top + bottom, right))
    best, score_name, guesses, right = max(bounds, key=lambda entry: entry[0])
    return OneRunAudit(
        epsilon=best.epsilon,
        ceiling=max(bound.ceiling for bound, *_ in bounds),
        score=score_name,
        guesses=guesses,
        right=right,
        canaries=len(canaries),
        delta=delta,
        level=level,
        scores={name: roc(score[included], score[~included]) for name, score in scores.items()},
    )


def _guess_counts(canaries: int) -> list[tuple[int, int]]:
    """Return pairs: the number of highest scores guessed as included, and of lowest scores guessed as left out.

    The second number is equal to the first, or 0: the copy of a record in the set shows that the record was included,
    but the absence of a copy shows little.
    """
    half = sorted({max(1, round(share * canaries / 2)) for share in _GUESSED_SHARES})
    return [(n, n) for n in half if 2 * n <= canaries] + [(n, 0) for n in half]
