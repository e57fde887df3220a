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
    """Weight of each set.

    Attributes:
        by: ``"images"``: every image counts the same. ``"examples"``: within a class, clients count by the real images
            behind their sets, and all classes count the same.
        cap: Largest weight of a client under ``"examples"``, in medians of the holders of a class.
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
        images: Images, (M, C, H, W) in the unit range, client by client.
        labels: Probabilities, (M, K).
        classes: Class of each image, (M,) int64.
        weights: Weight of each image in the loss, (M,), with mean 1.
        share: Largest share of the weight of a class that a client has.
        influence: Class that somebody sent to the largest share that a client could have had, by weight or by number
            of images, beside the sets of the others. It is 1 where one client alone holds a class.
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


def pooled(sets: Sequence[Contribution], task: Task, weighing: Weighing, *, quota: int) -> Pool:
    """Return the union of sets, at least one, whose senders may each send `quota` images of a class."""
    weights = [torch.ones(len(one.images)) for one in sets]
    if weighing.by == "examples":
        for c in range(task.num_classes):
            held = [i for i, one in enumerate(sets) if bool((one.classes == c).any())]
            total = _class_weights([sets[i].counts[c] for i in held], weighing)
            for i, weight in zip(held, total, strict=True):
                mine = sets[i].classes == c
                weights[i][mine] = weight / int(mine.sum()) / sum(total)
    # The weight that each set puts on each class, (clients, K): by labels, whatever an image was made for.
    mass = torch.stack([(one.labels * w[:, None]).sum(0) for one, w in zip(sets, weights, strict=True)])
    # Rows of soft labels leave traces of other classes, of which nobody has an image.
    there = mass.sum(0) > 1e-3 * mass.sum()
    joined = torch.cat(weights)
    return Pool(
        images=torch.cat([one.images for one in sets]),
        labels=torch.cat([one.labels for one in sets]),
        classes=torch.cat([one.classes for one in sets]),
        weights=joined / joined.mean(),
        share=float((mass / mass.sum(0).clamp_min(1e-12))[:, there].max()),
        influence=_influence(sets, mass, weighing, quota),
    )


def _class_weights(counts: Sequence[float], weighing: Weighing) -> list[float]:
    """Return the weight of each holder of a class: its count, capped."""
    if not counts:
        return []
    # The lower median: with the upper one of two holders, a liar would cap itself.
    median = sorted(counts)[(len(counts) - 1) // 2]
    return [max(1.0, min(n, weighing.cap * median)) for n in counts]


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
