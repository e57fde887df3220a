"""Checks that compare clients: copies of another client's set, and classes that are outliers among the clients."""

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
from ddsdk_integrations.federated.task import FederatedTask

_NETWORKS = 5


@final
@dataclass(frozen=True, kw_only=True)
class CrossClientFilter:
    """Filter of copied sets, and of classes whose images are outliers among the clients.

    Of two copies, the set of the later client in the order of nodes is refused. A class of a client is refused if its
    mean embedding is further from the median of all holders of the class than `far` times the median distance.

    Attributes:
        near: Root mean square difference of pixels, in the unit range, below which two images are copies.
        copies: Share of copied images from which on a set is refused, in (0, 1].
        far: Distance beyond which a class is refused, in median distances, above 1; infinity refuses none.
        whole: Share of outliers among the judged classes of a client above which its whole set is refused, in [0, 1].
        least: Smallest number of holders for which a class is judged, at least 3.

    Example:
        >>> import ddsdk
        >>> from ddsdk_integrations.federated import CrossClientFilter, FederatedTask, fed_dm
        >>> task = FederatedTask.of(ddsdk.load("digits"), width=4, depth=2)
        >>> strategy = fed_dm(task, screen=CrossClientFilter(far=4.0))
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
        self, sets: Sequence[Contribution], task: FederatedTask, rng: torch.Generator
    ) -> tuple[list[Contribution], list[Refusal]]:
        """Return the accepted sets, in their order, and the refusals.

        Args:
            sets: Sets that passed the checks of single replies.
            task: Task of the federation.
            rng: Generator of the embedding networks, derived from a secret: a client that can compute the networks can
                fit its images to them.
        """
        sets, copies = self._without_copies(sets)
        networks = [task.make(derive(rng, "network", i)).eval() for i in range(_NETWORKS)]
        sets, far = self._without_outliers(sets, task, networks)
        return sets, copies + far

    def _without_copies(self, sets: Sequence[Contribution]) -> tuple[list[Contribution], list[Refusal]]:
        accepted: list[Contribution] = []
        refused = []
        for contribution in sets:
            copied = ((self._copied_share(contribution, other), other.node) for other in accepted)
            share, node = max(copied, default=(0.0, 0))
            if share >= self.copies:
                reason = f"{100 * share:.0f} % of the images are copies of those of node {node}"
                refused.append(Refusal(contribution.node, 11, "duplicate", reason))
            else:
                accepted.append(contribution)
        return accepted, refused

    def _copied_share(self, contribution: Contribution, other: Contribution) -> float:
        a, b = contribution.images.flatten(1), other.images.flatten(1)
        # Only images of the same class count: equal noise or blank images under different labels are no copied set.
        same_class = contribution.classes[:, None] == other.classes[None]
        distance = torch.cdist(a, b) / math.sqrt(a.shape[1])
        return float(((distance < self.near) & same_class).any(1).float().mean())

    def _without_outliers(
        self, sets: Sequence[Contribution], task: FederatedTask, networks: Sequence[nn.Module]
    ) -> tuple[list[Contribution], list[Refusal]]:
        means = [_class_means(contribution, task, networks) for contribution in sets]
        accepted, refused = [], []
        for contribution, distances in zip(sets, self._distances(means, task.num_classes), strict=True):
            far = [c for c, distance in distances.items() if distance > self.far]
            for c in far:
                reason = f"class {task.class_names[c]!r} lies {distances[c]:.1f} times as far from the median as usual"
                refused.append(Refusal(contribution.node, 12, "outlier", reason))
            if len(far) > self.whole * len(distances):
                reason = f"{len(far)} of {len(distances)} classes lie far from the median"
                refused.append(Refusal(contribution.node, 12, "outlier", reason))
                continue
            if far:
                contribution = contribution.of_classes(~torch.isin(contribution.classes, torch.tensor(far)))
            accepted += [contribution] if len(contribution.images) else []
        return accepted, refused

    def _distances(self, means: Sequence[dict[int, Tensor]], num_classes: int) -> list[dict[int, float]]:
        """Return the distance of each judged class from the median, in median distances, for each set."""
        ratios: list[dict[int, float]] = [{} for _ in means]
        for c in range(num_classes):
            holders = [i for i, class_means in enumerate(means) if c in class_means]
            if len(holders) < self.least:
                continue
            stack = torch.stack([means[i][c] for i in holders])
            distance = (stack - stack.median(0).values).norm(dim=1)
            ratio = distance / distance.median().clamp_min(1e-12)
            for i, value in zip(holders, ratio.tolist(), strict=True):
                ratios[i][c] = value
        return ratios


@torch.no_grad()
def _class_means(contribution: Contribution, task: FederatedTask, networks: Sequence[nn.Module]) -> dict[int, Tensor]:
    """Return the mean embedding of each class, concatenated over the networks."""
    x = task.preprocess(contribution.images)
    features = torch.cat([embeddings(network, x) for network in networks], 1)
    return {int(c): features[contribution.classes == c].mean(0) for c in torch.unique(contribution.classes)}
