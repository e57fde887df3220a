"""Choosing items by their features: pure functions from a feature matrix to positions.

References:
    Welling, "Herding dynamical weights to learn", ICML 2009.
    Sener and Savarese, "Active Learning for Convolutional Neural Networks: A Core-Set Approach", ICLR 2018.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from ddsdk.foundation import require


def herding(features: Tensor, n: int) -> Tensor:
    """Choose greedily so that the mean of the chosen follows the mean of all.

    Args:
        features: (N, F).
        n: How many to choose, 1..N.

    Returns:
        (n,) int64 distinct positions, in the order of choice.

    Raises:
        ValueError: If `n` is not in 1..N.
    """
    _check(features, n)
    target, total = features.mean(0), torch.zeros_like(features[0])
    free = torch.ones(len(features), dtype=torch.bool, device=features.device)
    chosen = []
    for k in range(1, n + 1):
        gap = ((total + features) / k - target).square().sum(1)
        pick = int(gap.masked_fill(~free, torch.inf).argmin())
        free[pick] = False
        total = total + features[pick]
        chosen.append(pick)
    return torch.tensor(chosen)


def k_center(features: Tensor, n: int) -> Tensor:
    """Choose greedily the item farthest from the chosen ones, from the item nearest the mean.

    Args:
        features: (N, F).
        n: How many to choose, 1..N.

    Returns:
        (n,) int64 distinct positions, in the order of choice.

    Raises:
        ValueError: If `n` is not in 1..N.
    """
    _check(features, n)
    chosen = [int((features - features.mean(0)).square().sum(1).argmin())]
    distance = (features - features[chosen[0]]).square().sum(1)
    for _ in range(n - 1):
        distance[chosen[-1]] = -1
        pick = int(distance.argmax())
        chosen.append(pick)
        distance = torch.minimum(distance, (features - features[pick]).square().sum(1))
    return torch.tensor(chosen)


def k_means_nearest(features: Tensor, n: int, rng: torch.Generator) -> Tensor:
    """Choose the item nearest each of `n` k-means centres (scikit-learn's Lloyd iterations).

    Args:
        features: (N, F).
        n: How many to choose, 1..N.
        rng: Seeds the centres.

    Returns:
        (n,) int64 distinct positions. Where two centres share their nearest item, the later one takes its
        nearest free item.

    Raises:
        ValueError: If `n` is not in 1..N.
    """
    flat = features.cpu().double()
    distance = torch.cdist(k_means_centres(flat, n, rng), flat)
    chosen: list[int] = []
    for row in distance:
        row[chosen] = torch.inf
        chosen.append(int(row.argmin()))
    return torch.tensor(chosen)


def k_means_centres(features: Tensor, n: int, rng: torch.Generator) -> Tensor:
    """Return the means of `n` clusters (scikit-learn's Lloyd iterations); with `n` 1, the mean of all.

    Args:
        features: (N, F).
        n: How many, 1..N.
        rng: Seeds the centres.

    Returns:
        (n, F) float64 on the CPU.

    Raises:
        ValueError: If `n` is not in 1..N.
    """
    _check(features, n)
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    flat = features.cpu().double().numpy()
    with warnings.catch_warnings():
        # Fewer distinct items than centres is no fault: some centres then lie upon another.
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = KMeans(n, n_init=1, random_state=rng.initial_seed() % 2**32).fit(flat).cluster_centers_
    return torch.from_numpy(found)


def _check(features: Tensor, n: int) -> None:
    require(1 <= n <= len(features), "n", f"lie in 1..{len(features)}", n)
