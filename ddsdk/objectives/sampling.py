"""Real images that represent their class for the present student, with which a step compares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from ddsdk.data import Batch, Source
from ddsdk.foundation import Checked, PositiveInt, derive
from ddsdk.objectives.base import embedding
from ddsdk.training import embeddings


@final
@dataclass(frozen=True, kw_only=True)
class Representative(Checked):
    """Draw real images that cover their class: nearest the centres of k-means on the student's embeddings.

    A `RealSampler`. It has no memory, so that a step can be replayed alone.

    Attributes:
        candidates: Images of the class that are drawn at random and clustered.
        rounds: Lloyd iterations.

    Differences from the published algorithm: DREAM clusters all images of a class every ten steps of a student and
    goes on with the same choice in between; here every step clusters `candidates` images under the student as it is
    now, in a fixed number of rounds. An image is chosen among the members of its own cluster, and a cluster that
    runs empty chooses none.

    Cost: a forward pass over `candidates` images, and O(candidates n F) for each round with n images wanted.

    References:
        Liu et al., "DREAM: Efficient Dataset Distillation by Representative Matching", ICCV 2023, arXiv:2302.14416.
    """

    candidates: PositiveInt = 512
    rounds: PositiveInt = 10

    def __call__(self, student: nn.Module, real: Source, c: int, n: int, rng: torch.Generator) -> Batch:
        """Return at most `n` images of class `c`."""
        embedding(student)
        drawn = real.of_class(c, max(n, self.candidates), derive(rng, "candidates"))
        if len(drawn.x) <= n:
            return drawn
        picks = cluster_members(embeddings(student, drawn.x), n, self.rounds, derive(rng, "centres"))
        return Batch(drawn.x[picks], drawn.y[picks])


def cluster_members(features: Tensor, n: int, rounds: int, rng: torch.Generator) -> Tensor:
    """Return the member nearest the centre of each of `n` k-means clusters, without leaving the device.

    `ddsdk.data.k_means_nearest` is the exact one for a selection that is made once; this one is made at every step.

    Args:
        features: Features of the items, (N, F), N > n.
        n: Number of clusters.
        rounds: Lloyd iterations.
        rng: Root of the first centres, each of a chance that grows with its squared distance to those before.

    Returns:
        At most n distinct positions, int64; clusters that ran empty give none.
    """
    centres = _spread(features, n, rng)
    for _ in range(rounds):
        owner = torch.cdist(features, centres).argmin(1)
        sums = torch.zeros_like(centres).index_add_(0, owner, features)
        sizes = torch.bincount(owner, minlength=n)[:, None]
        centres = torch.where(sizes > 0, sums / sizes.clamp_min(1), centres)
    distance = torch.cdist(features, centres)
    owner = distance.argmin(1)
    mine = owner[:, None] == torch.arange(n, device=features.device)
    nearest = distance.masked_fill(~mine, torch.inf).argmin(0)
    return nearest[mine.any(0)]


def _spread(features: Tensor, n: int, rng: torch.Generator) -> Tensor:
    chances = torch.rand(n, generator=rng, dtype=torch.float64).to(features.device)
    weight = torch.ones(len(features), dtype=torch.float64, device=features.device)
    gap = torch.full_like(weight, torch.inf)
    centres = torch.empty(n, features.shape[1], dtype=features.dtype, device=features.device)
    for i in range(n):
        edges = weight.cumsum(0)
        pick = torch.searchsorted(edges, chances[i : i + 1] * edges[-1], right=True).clamp_max(len(features) - 1)
        centres[i : i + 1] = features[pick]
        gap = torch.minimum(gap, (features - centres[i]).square().sum(1).double())
        # Where every item is a centre already, any of them will do.
        weight = torch.where(gap.sum() > 0, gap, torch.ones_like(gap))
    return centres
