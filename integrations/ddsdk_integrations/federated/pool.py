"""Sets of clients become one that a server trains on: capped weights, and how much any one client can do."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor

import ddsdk as dd
from ddsdk.foundation import require
from ddsdk_integrations.federated.payload import Contribution
from ddsdk_integrations.federated.task import Task


@final
@dataclass(frozen=True, kw_only=True)
class Weighing:
    """How much each set counts.

    Attributes:
        by: ``"images"``: every image counts the same. ``"examples"``: within a class, clients count by the real images
            behind their sets, and all classes count the same.
        cap: Under ``"examples"``, a client counts at most so many times the median of the holders of a class, whatever
            it claims.
    """

    by: Literal["images", "examples"] = "images"
    cap: float = 3.0

    def __post_init__(self) -> None:
        require(self.by in ("images", "examples"), "by", "be images or examples", self.by)
        require(1 <= self.cap < math.inf, "cap", "be finite and at least 1", self.cap)


@final
@dataclass(frozen=True, eq=False)
class Pool:
    """The union of the sets of a round.

    Attributes:
        images: (M, C, H, W) in the unit range, client by client.
        labels: (M, K) probabilities.
        classes: (M,) int64.
        weights: (M,) of the images in the loss, with mean 1.
        share: Largest share of the weight of a class that a client has.
        influence: Largest share that a client could have had, by weight or by number of images, with what the
            others sent: for each class that somebody sent. It is 1 where one client alone holds a class.
    """

    images: Tensor
    labels: Tensor
    classes: Tensor
    weights: Tensor
    share: float
    influence: dict[int, float]

    def batch(self, task: Task) -> dd.Batch:
        """Return images in the value space, and label rows times weights: the loss is linear in them."""
        return dd.Batch(task.preprocess(self.images), self.labels * self.weights[:, None])

    def distilled(self, task: Task, evaluation: dd.Evaluation, *, recipe: str) -> dd.Distilled:
        """Return the union as an artefact, without weights."""
        return dd.Distilled(
            task.preprocess(self.images),
            self.labels / self.labels.sum(1, keepdim=True),
            class_names=task.class_names,
            preprocess=task.preprocess,
            evaluation=evaluation.to_dict(),
            classes=self.classes,
            provenance={"recipe": recipe},
        )


def pooled(sets: Sequence[Contribution], task: Task, weighing: Weighing, *, quota: int) -> Pool:
    """Put sets together.

    Args:
        sets: At least one.
        task: Task that all sides agree on.
        weighing: How much each counts.
        quota: Images of a class that one client may send.

    Cost: linear in the images.
    """
    weights = [torch.ones(len(one.images)) for one in sets]
    if weighing.by == "examples":
        for c in range(task.num_classes):
            held = [i for i, one in enumerate(sets) if bool((one.classes == c).any())]
            total = _class_weights([sets[i].counts[c] for i in held], weighing)
            for i, weight in zip(held, total, strict=True):
                mine = sets[i].classes == c
                weights[i][mine] = weight / int(mine.sum()) / sum(total)
    joined, mass = torch.cat(weights), _mass(sets, weights)
    return Pool(
        images=torch.cat([one.images for one in sets]),
        labels=torch.cat([one.labels for one in sets]),
        classes=torch.cat([one.classes for one in sets]),
        weights=joined / joined.mean(),
        share=_largest_share(mass),
        influence=_influence(sets, mass, weighing, quota),
    )


def _class_weights(counts: Sequence[float], weighing: Weighing) -> list[float]:
    """Return the weight of each holder of a class: its count, capped."""
    if not counts:
        return []
    median = sorted(counts)[(len(counts) - 1) // 2]
    return [max(1.0, min(n, weighing.cap * median)) for n in counts]


def _mass(sets: Sequence[Contribution], weights: Sequence[Tensor]) -> Tensor:
    """Return the weight that each set puts on each class, (clients, K): by labels, whatever an image was made for."""
    return torch.stack([(one.labels * w[:, None]).sum(0) for one, w in zip(sets, weights, strict=True)])


def _largest_share(mass: Tensor) -> float:
    # Rows of soft labels leave traces of other classes, of which nobody has an image.
    there = mass.sum(0) > 1e-3 * mass.sum()
    return float((mass / mass.sum(0).clamp_min(1e-12))[:, there].max())


def _influence(sets: Sequence[Contribution], mass: Tensor, weighing: Weighing, quota: int) -> dict[int, float]:
    """Return, for each class, the largest share that any of its holders could have reached, the others as they are."""
    found = {}
    soft = any(bool(((one.labels > 0) & (one.labels < 1)).any()) for one in sets)
    for c in range(mass.shape[1]):
        held = [one for one in sets if bool((one.classes == c).any())]
        if not held:
            continue
        if len(held) == 1 or (soft and weighing.by == "examples"):
            found[c] = 1.0
        elif weighing.by == "examples":
            counts = [float(one.counts[c]) for one in held]
            found[c] = max(_claimed(counts, i, weighing) for i in range(len(held)))
        else:
            # Half of a soft label may lie beside its class, so the images of all classes can add to one.
            most = quota * (1 + 0.5 * (mass.shape[1] - 1)) if soft else float(quota)
            rest = float(mass[:, c].sum() - mass[:, c].max())
            found[c] = most / (most + rest)
    return found


def _claimed(counts: list[float], i: int, weighing: Weighing) -> float:
    """Return the share of holder i if it claimed as many images as anybody could."""
    claimed = _class_weights([*counts[:i], math.inf, *counts[i + 1 :]], weighing)
    return claimed[i] / sum(claimed)
