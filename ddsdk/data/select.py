"""Selection of items by their features: pure functions of a feature matrix (N, F) and a number n in 1..N.

They return n distinct positions, int64, in the order of choice.

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
    """Choose greedily so that the mean of the chosen follows the mean of all."""
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
    """Choose greedily the item farthest from the chosen ones, from the item nearest the mean."""
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
    """Choose the item nearest each of `n` k-means centres, whose start the seed of `rng` gives.

    Where two centres share their nearest item, the later one takes its nearest free item.
    """
    flat = features.cpu().double()
    distance = torch.cdist(k_means_centres(flat, n, rng), flat)
    chosen: list[int] = []
    for row in distance:
        row[chosen] = torch.inf
        chosen.append(int(row.argmin()))
    return torch.tensor(chosen)


def k_means_centres(features: Tensor, n: int, rng: torch.Generator) -> Tensor:
    """Return the means of `n` clusters, (n, F) float64 on the CPU, by scikit-learn's Lloyd iterations."""
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
