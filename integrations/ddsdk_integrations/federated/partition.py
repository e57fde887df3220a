"""Splits of labelled data among clients, without downloads."""

from __future__ import annotations

import torch
from torch import Tensor

from ddsdk.foundation import derive, require, require_count, require_rate


def dirichlet(
    labels: Tensor, clients: int, alpha: float, rng: torch.Generator, *, least: int = 1, tries: int = 1000
) -> list[Tensor]:
    """Split so that the images of each class go to clients in shares drawn from a symmetric Dirichlet distribution.

    Args:
        labels: Class ids, (N,) int64.
        clients: Number of clients.
        alpha: Concentration: 100 gives clients much alike, 0.01 mostly one client for each class.
        rng: Root of shares and order.
        least: Images that every client must have; shares are drawn again until it is so.
        tries: Largest number of draws.

    Returns:
        For each client the positions of its images, in rising order; every image is given once.

    Raises:
        ValueError: If no draw gives every client enough.

    References:
        Hsu, Qi and Brown, "Measuring the Effects of Non-Identical Data Distribution for Federated Visual
        Classification", 2019, arXiv:1909.06335.
    """
    require_count("clients", clients)
    require_rate("alpha", alpha)
    require(least * clients <= len(labels), "least", f"not exceed {len(labels)} images", least)
    for attempt in range(tries):
        key = derive(rng, "dirichlet", attempt)
        owner = torch.empty(len(labels), dtype=torch.int64)
        for c in torch.unique(labels).tolist():
            rows = torch.nonzero(labels == c).flatten()
            rows = rows[torch.randperm(len(rows), generator=derive(key, "order", c))]
            share = _dirichlet_draw(alpha, clients, derive(key, "share", c))
            cuts = (share.cumsum(0) * len(rows)).round().long()[:-1]
            owner[rows] = torch.bucketize(torch.arange(len(rows)), cuts, right=True)
        if int(torch.bincount(owner, minlength=clients).min()) >= least:
            return _by_owner(owner, clients)
    raise ValueError(f"least must be reachable in {tries} draws, got {least} for alpha {alpha}")


def shards(labels: Tensor, clients: int, per_client: int, rng: torch.Generator) -> list[Tensor]:
    """Sort by class, cut into equal shards, and give each client some of them at random: few classes for each.

    Args:
        labels: Class ids, (N,) int64.
        clients: Number of clients.
        per_client: Shards of one client.
        rng: Root of order and choice.

    References:
        McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", AISTATS 2017.
    """
    require_count("clients", clients)
    require_count("per_client", per_client)
    total = clients * per_client
    require(total <= len(labels), "per_client", f"leave an image for each of {total} shards", per_client)
    mixed = torch.randperm(len(labels), generator=derive(rng, "order"))
    ordered = mixed[labels[mixed].argsort(stable=True)]
    shard = torch.arange(len(labels)) * total // len(labels)
    given = torch.randperm(total, generator=derive(rng, "gift")) // per_client
    owner = torch.empty(len(labels), dtype=torch.int64)
    owner[ordered] = given[shard]
    return _by_owner(owner, clients)


def quantity_skew(labels: Tensor, clients: int, alpha: float, rng: torch.Generator) -> list[Tensor]:
    """Split at random into parts whose sizes are drawn from a Dirichlet distribution, at least one image each.

    Args:
        labels: Class ids, (N,) int64; only their number counts.
        clients: Number of clients.
        alpha: Concentration of the sizes.
        rng: Root of sizes and order.
    """
    require_count("clients", clients)
    require_rate("alpha", alpha)
    require(clients <= len(labels), "clients", f"not exceed {len(labels)} images", clients)
    share = _dirichlet_draw(alpha, clients, derive(rng, "share"))
    cuts = (share.cumsum(0) * (len(labels) - clients)).round().long()[:-1]
    spare = torch.bucketize(torch.arange(len(labels) - clients), cuts, right=True)
    owner = torch.cat([torch.arange(clients), spare])
    mixed = torch.empty_like(owner)
    mixed[torch.randperm(len(labels), generator=derive(rng, "order"))] = owner
    return _by_owner(mixed, clients)


def _dirichlet_draw(alpha: float, n: int, rng: torch.Generator) -> Tensor:
    """Draw shares, (n,) float64, by the logarithms of gamma variates: small alpha would underflow otherwise.

    log Gamma(a) = log Gamma(a + 1) + log(U) / a.
    """
    raised = torch._standard_gamma(torch.full((n,), alpha + 1.0, dtype=torch.float64), generator=rng)
    uniform = torch.rand(n, dtype=torch.float64, generator=rng).clamp_min(1e-300)
    return (raised.log() + uniform.log() / alpha).softmax(0)


def _by_owner(owner: Tensor, clients: int) -> list[Tensor]:
    return [torch.nonzero(owner == i).flatten() for i in range(clients)]
