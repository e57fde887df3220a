"""Checks that compare clients: copies of another one's set, and classes that look like nobody else's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

import ddsdk as dd
from ddsdk.errors import require
from ddsdk_integrations.federated.checks import Refusal
from ddsdk_integrations.federated.payload import Contribution
from ddsdk_integrations.federated.task import Task

__all__ = ["Screen"]


@final
@dataclass(frozen=True, kw_only=True)
class Screen:
    """Which sets are refused for what the others sent.

    A copy is refused where an earlier client, in the order of nodes, has sent the same. The class of a client is
    refused where its mean embedding lies further from the median of its holders than `far` times the median of these
    distances: with fewer than `least` holders nobody can tell.

    Attributes:
        near: Root mean square difference of pixels, unit range, below which two images are the same.
        copies: Share of near copies from which on a set is refused.
        far: See above; infinity refuses no class.
        least: Holders of a class that are needed to judge it.
    """

    near: float = 0.01
    copies: float = 0.5
    far: float = 4.0
    least: int = 5

    def __post_init__(self) -> None:
        require(self.near >= 0, "near", "not be negative", self.near)
        require(0 < self.copies <= 1, "copies", "lie in 0 < value <= 1", self.copies)
        require(self.far > 1, "far", "be above 1", self.far)
        require(self.least >= 3, "least", "be at least 3", self.least)

    def __call__(self, sets: Sequence[Contribution], task: Task) -> tuple[list[Contribution], list[Refusal]]:
        """Return what is left of the sets, in their order, and what was refused."""
        sets, refused = self._without_copies(sets)
        sets, far = self._without_outliers(sets, task)
        return sets, refused + far

    def _without_copies(self, sets: Sequence[Contribution]) -> tuple[list[Contribution], list[Refusal]]:
        kept: list[Contribution] = []
        refused = []
        for one in sets:
            share, other = max(((self._copied(one, k), k.node) for k in kept), default=(0.0, 0))
            if share >= self.copies:
                reason = f"{100 * share:.0f} % of the images are copies of those of node {other}"
                refused.append(Refusal(one.node, 11, "duplicate", reason))
            else:
                kept.append(one)
        return kept, refused

    def _copied(self, one: Contribution, other: Contribution) -> float:
        a, b = one.images.flatten(1), other.images.flatten(1)
        # Identical noise, or identical blanks, under different labels is no copy of a set.
        same = one.classes[:, None] == other.classes[None]
        distance = torch.cdist(a, b) / math.sqrt(a.shape[1])
        return float(((distance < self.near) & same).any(1).float().mean())

    def _without_outliers(
        self, sets: Sequence[Contribution], task: Task
    ) -> tuple[list[Contribution], list[Refusal]]:
        means = [_class_means(one, task) for one in sets]
        bad: list[set[int]] = [set() for _ in sets]
        refused = []
        for c in range(task.num_classes):
            holders = [i for i, found in enumerate(means) if c in found]
            if len(holders) < self.least:
                continue
            stack = torch.stack([means[i][c] for i in holders])
            distance = (stack - stack.median(0).values).norm(dim=1)
            usual = float(distance.median())
            for i, far in zip(holders, distance.tolist(), strict=True):
                if far > self.far * usual:
                    bad[i].add(c)
                    reason = (
                        f"class {task.class_names[c]!r} lies {far / usual:.1f} times as far from the median"
                    )
                    refused.append(Refusal(sets[i].node, 12, "outlier", reason))
        left = [
            one if not wrong else one.of_classes(~torch.isin(one.classes, torch.tensor(sorted(wrong))))
            for one, wrong in zip(sets, bad, strict=True)
        ]
        return [one for one in left if len(one.images)], refused


@torch.no_grad()
def _class_means(one: Contribution, task: Task) -> dict[int, Tensor]:
    """Return the mean embedding of each class under one random network that nobody can choose images for."""
    network = task.make(dd.generator("screen"))
    network.eval()
    features = dd.embeddings(network, task.preprocess(one.images))
    return {int(c): features[one.classes == c].mean(0) for c in torch.unique(one.classes)}
