"""Partitions of labelled data among clients: Dirichlet label skew, shards, and quantity skew."""

from __future__ import annotations

import torch
from torch import Tensor

from ddsdk.foundation import derive, require, require_count, require_positive


def dirichlet(
    labels: Tensor, clients: int, alpha: float, rng: torch.Generator, *, least: int = 1, tries: int = 1000
) -> list[Tensor]:
    """Return a partition with label skew: a symmetric Dirichlet distribution gives the shares of each class.

    Args:
        labels: Class ids, (N,) int64.
        clients: Number of clients, at least 1.
        alpha: Concentration of the Dirichlet distribution, positive: clients are much alike for 100, and most classes
            belong to one client for 0.01.
        rng: Generator from which shares and order derive.
        least: Smallest number of images of a client; the partition is drawn again until it is reached.
        tries: Largest number of draws.

    Returns:
        The positions of each client's images in rising order; every image belongs to one client.

    Raises:
        ValueError: If no draw gives `least` images to every client.

    References:
        Hsu, Qi and Brown, "Measuring the Effects of Non-Identical Data Distribution for Federated Visual
        Classification", 2019, arXiv:1909.06335.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.federated import dirichlet
        >>> parts = dirichlet(ddsdk.load("digits").labels, 4, 0.5, ddsdk.generator(0), least=20)
        >>> len(parts)
        4
    """
    require_count("clients", clients)
    require_positive("alpha", alpha)
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
    """Return a partition by shards: images sorted by class are cut into equal shards, which are dealt at random.

    A client with few shards holds few classes.

    Args:
        labels: Class ids, (N,) int64.
        clients: Number of clients, at least 1.
        per_client: Number of shards of each client.
        rng: Generator from which order and assignment derive.

    Returns:
        The positions of each client's images in rising order; every image belongs to one client.

    References:
        McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", AISTATS 2017.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.federated import shards
        >>> labels = ddsdk.load("digits").labels
        >>> [len(part) for part in shards(labels[:1000], 5, 2, ddsdk.generator(0))]
        [200, 200, 200, 200, 200]
    """
    require_count("clients", clients)
    require_count("per_client", per_client)
    total = clients * per_client
    require(total <= len(labels), "per_client", f"leave an image for each of {total} shards", per_client)
    mixed = torch.randperm(len(labels), generator=derive(rng, "order"))
    ordered = mixed[labels[mixed].argsort(stable=True)]
    shard = torch.arange(len(labels)) * total // len(labels)
    client_of_shard = torch.randperm(total, generator=derive(rng, "gift")) // per_client
    owner = torch.empty(len(labels), dtype=torch.int64)
    owner[ordered] = client_of_shard[shard]
    return _by_owner(owner, clients)


def quantity_skew(labels: Tensor, clients: int, alpha: float, rng: torch.Generator) -> list[Tensor]:
    """Return a random partition whose sizes follow a symmetric Dirichlet distribution, with at least one image each.

    Args:
        labels: Class ids, (N,) int64, of which only the number N matters.
        clients: Number of clients, at least 1.
        alpha: Concentration of the sizes, positive; a smaller one gives more unequal sizes.
        rng: Generator from which sizes and order derive.

    Returns:
        The positions of each client's images in rising order; every image belongs to one client.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.federated import quantity_skew
        >>> parts = quantity_skew(ddsdk.load("digits").labels, 4, 0.5, ddsdk.generator(0))
        >>> sum(len(part) for part in parts)
        1347
    """
    require_count("clients", clients)
    require_positive("alpha", alpha)
    require(clients <= len(labels), "clients", f"not exceed {len(labels)} images", clients)
    share = _dirichlet_draw(alpha, clients, derive(rng, "share"))
    # One image of each client is set aside, so that a share of zero still leaves one.
    cuts = (share.cumsum(0) * (len(labels) - clients)).round().long()[:-1]
    drawn = torch.bucketize(torch.arange(len(labels) - clients), cuts, right=True)
    owner = torch.cat([torch.arange(clients), drawn])
    mixed = torch.empty_like(owner)
    mixed[torch.randperm(len(labels), generator=derive(rng, "order"))] = owner
    return _by_owner(mixed, clients)


def _dirichlet_draw(alpha: float, n: int, rng: torch.Generator) -> Tensor:
    """Return shares, (n,) float64, as a softmax over logarithms of gamma variates, which cannot underflow.

    log Gamma(a) = log Gamma(a + 1) + log(U) / a.
    """
    raised = torch._standard_gamma(torch.full((n,), alpha + 1.0, dtype=torch.float64), generator=rng)
    uniform = torch.rand(n, dtype=torch.float64, generator=rng).clamp_min(1e-300)
    return (raised.log() + uniform.log() / alpha).softmax(0)


def _by_owner(owner: Tensor, clients: int) -> list[Tensor]:
    return [torch.nonzero(owner == i).flatten() for i in range(clients)]
