"""Sets of clients become one that a server trains on: capped weights, and how much any one client can do."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor

import ddsdk as dd
from ddsdk.errors import require
from ddsdk_integrations.federated.payload import Contribution
from ddsdk_integrations.federated.task import Task

__all__ = ["Pool", "Weighing", "pooled"]


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
        task: What is agreed on.
        weighing: How much each counts.
        quota: Images of a class that one client may send.

    Cost: linear in the images.
    """
    weights = [torch.ones(len(one.images)) for one in sets]
    share, influence = 0.0, {}
    for c in range(task.num_classes):
        mine = [one.classes == c for one in sets]
        held = [i for i, rows in enumerate(mine) if bool(rows.any())]
        if not held:
            continue
        total = _class_weights([sets[i].counts[c] for i in held], weighing)
        sizes = [int(mine[i].sum()) for i in held]
        if weighing.by == "images":
            total = [float(n) for n in sizes]
        for i, weight, size in zip(held, total, sizes, strict=True):
            weights[i][mine[i]] = weight / size / (sum(total) if weighing.by == "examples" else 1.0)
        share = max(share, max(total) / sum(total))
        influence[c] = _possible_share(total, weighing, quota)
    joined = torch.cat(weights)
    return Pool(
        images=torch.cat([one.images for one in sets]),
        labels=torch.cat([one.labels for one in sets]),
        classes=torch.cat([one.classes for one in sets]),
        weights=joined / joined.mean(),
        share=share,
        influence=influence,
    )


def _class_weights(counts: Sequence[int], weighing: Weighing) -> list[float]:
    """Return the weight of each holder of a class: its count, capped."""
    median = sorted(counts)[(len(counts) - 1) // 2]
    return [max(1.0, min(n, weighing.cap * median)) for n in counts]


def _possible_share(total: Sequence[float], weighing: Weighing, quota: int) -> float:
    """Return the largest share that any holder could have reached while the others stay as they are."""
    best = 0.0
    for i in range(len(total)):
        others = [w for j, w in enumerate(total) if j != i]
        if not others:
            return 1.0
        # The cap looks at a median that the holder itself can push up to the largest of the others.
        most = float(quota) if weighing.by == "images" else weighing.cap * max(others)
        best = max(best, most / (most + sum(others)))
    return best
