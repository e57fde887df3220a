"""Union of the clients' sets on the server, with capped weights and a bound on the influence of a single client."""

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
from ddsdk_integrations.federated.task import FederatedTask


@final
@dataclass(frozen=True, kw_only=True)
class PoolWeights:
    """Weights of the clients' sets in the training loss of the server.

    Within a class a client's weight is its number of images, at most `cap` times the median of the class.

    Attributes:
        by: Images that count. ``"images"``: the images that a client sent; a class has the weight of all images that
            were sent for it. ``"examples"``: the real images behind a set, which clients claim; all classes have the
            same weight.
        cap: Largest weight of a client, at least 1, in units of the median weight in a class.

    Examples:
        >>> from ddsdk_integrations.federated import PoolWeights
        >>> PoolWeights(by="examples", cap=3.0)
        PoolWeights(by='examples', cap=3.0)
    """

    by: Literal["images", "examples"] = "images"
    cap: float = 1.0

    def __post_init__(self) -> None:
        require(self.by in ("images", "examples"), "by", "be images or examples", self.by)
        require(1 <= self.cap < math.inf, "cap", "be finite and at least 1", self.cap)


@final
@dataclass(frozen=True, eq=False)
class Pool:
    """Union of the clients' sets of a round.

    Attributes:
        images: Images, (M, C, H, W) in the unit range, client by client.
        labels: Label rows, (M, K) probabilities.
        classes: Class id of each image, (M,) int64.
        weights: Weight of each image in the loss, (M,), with mean 1.
        share: Largest share of one client in the weight of a class, in (0, 1].
        influence: Largest share that one client could have had in each class with images, if the other sets stayed the
            same. It is 1 if one client alone has a class, and with soft labels, which count in several classes.
    """

    images: Tensor
    labels: Tensor
    classes: Tensor
    weights: Tensor
    share: float
    influence: dict[int, float]

    def batch(self, task: FederatedTask) -> dd.Batch:
        """Return the images in the value space, with label rows multiplied by the weights.

        Cross-entropy is linear in the label row, so this weights the loss of each image.
        """
        return dd.Batch(task.preprocess(self.images), self.labels * self.weights[:, None])


def pooled(sets: Sequence[Contribution], task: FederatedTask, weighing: PoolWeights) -> Pool:
    """Return the union of clients' sets.

    Args:
        sets: Sets of the clients, at least one.
        task: Task of the federation.
        weighing: Rule of the weights.
    """
    weights = [torch.ones(len(contribution.images)) for contribution in sets]
    influence = {}
    soft = any(bool(((contribution.labels > 0) & (contribution.labels < 1)).any()) for contribution in sets)
    for c in range(task.num_classes):
        sent = [int((contribution.classes == c).sum()) for contribution in sets]
        holders = [i for i, n in enumerate(sent) if n]
        if not holders:
            continue
        by_images = weighing.by == "images"
        counts = [float(sent[i] if by_images else sets[i].counts[c]) for i in holders]
        holder_weights = _class_weights(counts, weighing)
        class_weight = sum(sent) if by_images else 1.0
        for i, weight in zip(holders, holder_weights, strict=True):
            weights[i][sets[i].classes == c] = class_weight * weight / sent[i] / sum(holder_weights)
        shares = (_largest_share(counts, i, weighing) for i in range(len(holders)))
        influence[c] = 1.0 if soft or len(holders) == 1 else max(shares)
    # Weight of each set in each class, (clients, K). Soft labels count in every class, whatever an image was made for.
    mass = torch.stack(
        [(contribution.labels * w[:, None]).sum(0) for contribution, w in zip(sets, weights, strict=True)]
    )
    # Soft labels leave traces in classes without images, whose shares would be meaningless.
    present = mass.sum(0) > 1e-3 * mass.sum()
    all_weights = torch.cat(weights)
    return Pool(
        images=torch.cat([contribution.images for contribution in sets]),
        labels=torch.cat([contribution.labels for contribution in sets]),
        classes=torch.cat([contribution.classes for contribution in sets]),
        weights=all_weights / all_weights.mean(),
        share=float((mass / mass.sum(0).clamp_min(1e-12))[:, present].max()),
        influence=influence,
    )


def _class_weights(counts: Sequence[float], weighing: PoolWeights) -> list[float]:
    """Return the weight of each holder of a class: its number of images, at most `cap` medians."""
    # The lower median: with the upper one of two holders, an exaggerated claim would raise its own cap.
    median = sorted(counts)[(len(counts) - 1) // 2]
    return [max(1.0, min(n, weighing.cap * median)) for n in counts]


def _largest_share(counts: list[float], i: int, weighing: PoolWeights) -> float:
    """Return the share of holder i if it claimed infinitely many images."""
    weights = _class_weights([*counts[:i], math.inf, *counts[i + 1 :]], weighing)
    return weights[i] / sum(weights)
