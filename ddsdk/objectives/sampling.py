"""Choice of representative real images for a step, by clustering of the student's features (DREAM)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from ddsdk.data import Batch, Source
from ddsdk.foundation import CheckedDataclass, PositiveInt, derive
from ddsdk.objectives.base import embedding
from ddsdk.training import embeddings


@final
@dataclass(frozen=True, kw_only=True)
class Representative(CheckedDataclass):
    """A `RealSampler` that chooses the images nearest to the k-means centres of a class in the student's features.

    It has no state, so that any step can be repeated alone.

    Attributes:
        candidates: Number of random images of the class that are clustered.
        rounds: Number of Lloyd iterations of k-means.

    Differences from the published algorithm: DREAM clusters all images of a class every ten steps of a student and
    keeps the choice in between; here every step clusters `candidates` images under the present student, in a fixed
    number of iterations. An image is chosen among the members of its own cluster, and an empty cluster chooses none.

    Cost: one forward pass over `candidates` images, and O(candidates n F) for each iteration and n chosen images.

    References:
        Liu et al., "DREAM: Efficient Dataset Distillation by Representative Matching", ICCV 2023, arXiv:2302.14416.

    Examples:
        >>> import ddsdk
        >>> real = ddsdk.load("digits")
        >>> student = ddsdk.network_factory("convnet", real.image_shape, 10, width=4)(ddsdk.generator(0))
        >>> sample = ddsdk.objectives.Representative(candidates=50)
        >>> len(sample(student, real, 3, 10, ddsdk.generator(1)).x) <= 10
        True
    """

    candidates: PositiveInt = 512
    rounds: PositiveInt = 10

    def __call__(self, student: nn.Module, real: Source, c: int, n: int, rng: torch.Generator) -> Batch:
        """Return at most `n` images of class `c`."""
        embedding(student)
        batch = real.of_class(c, max(n, self.candidates), derive(rng, "candidates"))
        if len(batch.x) <= n:
            return batch
        positions = cluster_members(embeddings(student, batch.x), n, self.rounds, derive(rng, "centres"))
        return Batch(batch.x[positions], batch.y[positions])


def cluster_members(features: Tensor, n: int, rounds: int, rng: torch.Generator) -> Tensor:
    """Return, for each of `n` k-means clusters, the member nearest to its centre.

    It runs on the device of the features, for a choice at every step; `ddsdk.data.k_means_nearest` is exact, for a
    choice that is made once.

    Args:
        features: Features of the items, (N, F) with N > n.
        n: Number of clusters, at least 1.
        rounds: Number of Lloyd iterations.
        rng: Root of the first centres, drawn with probabilities proportional to the squared distance to the earlier
            ones (k-means++).

    Returns:
        At most n distinct positions, int64; an empty cluster has none.
    """
    centres = _first_centres(features, n, rng)
    for _ in range(rounds):
        cluster = torch.cdist(features, centres).argmin(1)
        sums = torch.zeros_like(centres).index_add_(0, cluster, features)
        sizes = torch.bincount(cluster, minlength=n)[:, None]
        centres = torch.where(sizes > 0, sums / sizes.clamp_min(1), centres)
    distance = torch.cdist(features, centres)
    cluster = distance.argmin(1)
    members = cluster[:, None] == torch.arange(n, device=features.device)
    nearest = distance.masked_fill(~members, torch.inf).argmin(0)
    return nearest[members.any(0)]


def _first_centres(features: Tensor, n: int, rng: torch.Generator) -> Tensor:
    uniform = torch.rand(n, generator=rng, dtype=torch.float64).to(features.device)
    weight = torch.ones(len(features), dtype=torch.float64, device=features.device)
    squared_distance = torch.full_like(weight, torch.inf)
    centres = torch.empty(n, features.shape[1], dtype=features.dtype, device=features.device)
    for i in range(n):
        cumulative = weight.cumsum(0)
        threshold = uniform[i : i + 1] * cumulative[-1]
        position = torch.searchsorted(cumulative, threshold, right=True).clamp_max(len(features) - 1)
        centres[i : i + 1] = features[position]
        new_squared_distance = (features - centres[i]).square().sum(1).double()
        squared_distance = torch.minimum(squared_distance, new_squared_distance)
        # If every item equals a centre, all weights are zero and the next centre is uniform.
        weight = torch.where(squared_distance.sum() > 0, squared_distance, torch.ones_like(squared_distance))
    return centres
