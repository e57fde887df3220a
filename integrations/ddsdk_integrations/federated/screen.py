"""Checks that compare clients: copies of another one's set, and classes that look like nobody else's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from ddsdk.foundation import derive, require
from ddsdk.training import embeddings
from ddsdk_integrations.federated.checks import Refusal
from ddsdk_integrations.federated.payload import Contribution
from ddsdk_integrations.federated.task import Task

_NETWORKS = 5


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
        whole: A client is refused as a whole if more than this share of its classes that can be judged lie so far.
        least: Holders of a class that are needed to judge it.
    """

    near: float = 0.01
    copies: float = 0.5
    far: float = 3.0
    whole: float = 0.5
    least: int = 5

    def __post_init__(self) -> None:
        require(self.near >= 0, "near", "not be negative", self.near)
        require(0 < self.copies <= 1, "copies", "lie in 0 < value <= 1", self.copies)
        require(self.far > 1, "far", "be above 1", self.far)
        require(0 <= self.whole <= 1, "whole", "lie in 0..1", self.whole)
        require(self.least >= 3, "least", "be at least 3", self.least)

    def __call__(
        self, sets: Sequence[Contribution], task: Task, rng: torch.Generator
    ) -> tuple[list[Contribution], list[Refusal]]:
        """Return what is left of the sets, in their order, and what was refused.

        Args:
            sets: That have passed the checks of single replies.
            task: Task that all sides agree on.
            rng: For the networks of the embeddings. A client that could tell their weights could make images for them,
                so it must come from a secret.
        """
        sets, refused = self._without_copies(sets)
        networks = [task.make(derive(rng, "network", i)).eval() for i in range(_NETWORKS)]
        sets, far = self._without_outliers(sets, task, networks)
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
        self, sets: Sequence[Contribution], task: Task, networks: Sequence[nn.Module]
    ) -> tuple[list[Contribution], list[Refusal]]:
        found = self._distances([_class_means(one, task, networks) for one in sets], task.num_classes)
        left, refused = [], []
        for one, distances in zip(sets, found, strict=True):
            far = [c for c, distance in distances.items() if distance > self.far]
            refused += [Refusal(one.node, 12, "outlier", _told(task.class_names[c], distances[c])) for c in far]
            if len(far) > self.whole * len(distances):
                reason = f"{len(far)} of {len(distances)} classes lie far from the median"
                refused.append(Refusal(one.node, 12, "outlier", reason))
                continue
            kept = one.of_classes(~torch.isin(one.classes, torch.tensor(far))) if far else one
            left += [kept] if len(kept.images) else []
        return left, refused

    def _distances(self, means: Sequence[dict[int, Tensor]], num_classes: int) -> list[dict[int, float]]:
        """Return, for each set, the distance of each class that can be judged, in units of the usual one."""
        found: list[dict[int, float]] = [{} for _ in means]
        for c in range(num_classes):
            holders = [i for i, mine in enumerate(means) if c in mine]
            if len(holders) < self.least:
                continue
            stack = torch.stack([means[i][c] for i in holders])
            distance = (stack - stack.median(0).values).norm(dim=1)
            ratio = distance / distance.median().clamp_min(1e-12)
            for i, value in zip(holders, ratio.tolist(), strict=True):
                found[i][c] = value
        return found


def _told(name: str, distance: float) -> str:
    return f"class {name!r} lies {distance:.1f} times as far from the median as usual"


@torch.no_grad()
def _class_means(one: Contribution, task: Task, networks: Sequence[nn.Module]) -> dict[int, Tensor]:
    """Return the mean embedding of each class, that of one network after that of another."""
    x = task.preprocess(one.images)
    features = torch.cat([embeddings(network, x) for network in networks], 1)
    return {int(c): features[one.classes == c].mean(0) for c in torch.unique(one.classes)}
