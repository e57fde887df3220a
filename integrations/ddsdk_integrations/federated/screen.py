"""Checks that compare clients: copies of another one's set, and classes that look like nobody else's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from ddsdk.foundation import Fraction, NonNegativeFloat, check_numbers, derive, require
from ddsdk.training import embeddings
from ddsdk_integrations.federated.checks import Refusal
from ddsdk_integrations.federated.payload import Contribution
from ddsdk_integrations.federated.task import Task

_NETWORKS = 5


@final
@dataclass(frozen=True, kw_only=True)
class Screen:
    """Refusal of sets that copy another one, and of classes that are unlike those of the other clients.

    A copy is refused where an earlier client, in the order of nodes, has sent the same. The class of a client is
    refused where its mean embedding lies further from the median of its holders than `far` times the median of these
    distances.

    Attributes:
        near: Root mean square difference of pixels, unit range, below which two images are the same.
        copies: Share of near copies from which on a set is refused.
        far: Distance beyond which a class is refused, in median distances; infinity refuses none.
        whole: Share of the judged classes of a client beyond which, if they lie so far, it is refused as a whole.
        least: Holders of a class that are needed to judge it.
    """

    near: NonNegativeFloat = 0.01
    copies: float = 0.5
    far: float = 3.0
    whole: Fraction = 0.5
    least: int = 5

    def __post_init__(self) -> None:
        check_numbers(self)
        require(0 < self.copies <= 1, "copies", "lie in 0 < value <= 1", self.copies)
        require(self.far > 1, "far", "be above 1", self.far)
        require(self.least >= 3, "least", "be at least 3", self.least)

    def __call__(
        self, sets: Sequence[Contribution], task: Task, rng: torch.Generator
    ) -> tuple[list[Contribution], list[Refusal]]:
        """Return the rest of the sets, in their order, and the refusals.

        Args:
            sets: Sets that have passed the checks of single replies.
            task: Task that all sides agree on.
            rng: Root of the networks of the embeddings. It must come from a secret: a client that could compute their
                weights could make images for them.
        """
        sets, copies = self._without_copies(sets)
        networks = [task.make(derive(rng, "network", i)).eval() for i in range(_NETWORKS)]
        sets, far = self._without_outliers(sets, task, networks)
        return sets, copies + far

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
            for c in far:
                reason = f"class {task.class_names[c]!r} lies {distances[c]:.1f} times as far from the median as usual"
                refused.append(Refusal(one.node, 12, "outlier", reason))
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


@torch.no_grad()
def _class_means(one: Contribution, task: Task, networks: Sequence[nn.Module]) -> dict[int, Tensor]:
    """Return the mean embedding of each class, that of one network after that of another."""
    x = task.preprocess(one.images)
    features = torch.cat([embeddings(network, x) for network in networks], 1)
    return {int(c): features[one.classes == c].mean(0) for c in torch.unique(one.classes)}
