"""Coreset selection by features: herding, k-center, k-means and moderate distances.

Each function selects n of N items, 1 <= n <= N, by their features (N, F).

References:
    Welling, "Herding dynamical weights to learn", ICML 2009.
    Sener and Savarese, "Active Learning for Convolutional Neural Networks: A Core-Set Approach", ICLR 2018.
    Xia, Liu, Yu, Shen, Han and Liu, "Moderate Coreset: A Universal Method of Data Selection for Real-world
    Data-efficient Deep Learning", ICLR 2023.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from ddsdk.foundation import require


def herding(features: Tensor, n: int) -> Tensor:
    """Return items selected by herding, which greedily keeps the mean of the selected features near the overall mean.

    Args:
        features: Features of the items, (N, F).
        n: Number of items to select, in 1..N.

    Returns:
        Distinct positions in `features`, (n,) int64, in the order of selection.

    Examples:
        >>> import ddsdk
        >>> import torch
        >>> ddsdk.data.herding(torch.tensor([[0.0], [1.0], [2.0], [7.0]]), 2).tolist()
        [2, 1]
    """
    _check(features, n)
    target, total = features.mean(0), torch.zeros_like(features[0])
    available = torch.ones(len(features), dtype=torch.bool, device=features.device)
    selected = []
    for k in range(1, n + 1):
        gap = ((total + features) / k - target).square().sum(1)
        nearest = int(gap.masked_fill(~available, torch.inf).argmin())
        available[nearest] = False
        total = total + features[nearest]
        selected.append(nearest)
    return torch.tensor(selected)


def k_center(features: Tensor, n: int) -> Tensor:
    """Return items selected by greedy k-center: each next item is the farthest one from the selected items.

    The first item is the one nearest to the mean.

    Args:
        features: Features of the items, (N, F).
        n: Number of items to select, in 1..N.

    Returns:
        Distinct positions in `features`, (n,) int64, in the order of selection.

    Examples:
        >>> import ddsdk
        >>> import torch
        >>> ddsdk.data.k_center(torch.tensor([[0.0], [1.0], [2.0], [7.0]]), 2).tolist()
        [2, 3]
    """
    _check(features, n)
    selected = [int((features - features.mean(0)).square().sum(1).argmin())]
    distance = (features - features[selected[0]]).square().sum(1)
    for _ in range(n - 1):
        # A negative distance excludes the selected item, also where all other items coincide with selected ones.
        distance[selected[-1]] = -1
        farthest = int(distance.argmax())
        selected.append(farthest)
        distance = torch.minimum(distance, (features - features[farthest]).square().sum(1))
    return torch.tensor(selected)


def k_means_nearest(features: Tensor, n: int, rng: torch.Generator) -> Tensor:
    """Return the items nearest to the centres of `n` k-means clusters.

    If two centres have the same nearest item, the second one takes the nearest item that is not yet selected.

    Args:
        features: Features of the items, (N, F).
        n: Number of items to select, in 1..N.
        rng: Generator whose seed starts the clustering; it is not advanced.

    Returns:
        Distinct positions in `features`, (n,) int64, in the order of the clusters.

    Examples:
        >>> import ddsdk
        >>> import torch
        >>> features = torch.tensor([[0.0], [0.1], [0.2], [9.0]])
        >>> sorted(ddsdk.data.k_means_nearest(features, 2, ddsdk.generator(0)).tolist())
        [1, 3]
    """
    features = features.cpu().double()
    distance = torch.cdist(k_means_centres(features, n, rng), features)
    selected: list[int] = []
    for row in distance:
        row[selected] = torch.inf
        selected.append(int(row.argmin()))
    return torch.tensor(selected)


def k_means_centres(features: Tensor, n: int, rng: torch.Generator) -> Tensor:
    """Return the centres of `n` k-means clusters, (n, F) float64 on the CPU, from scikit-learn's Lloyd algorithm.

    Args:
        features: Features of the items, (N, F).
        n: Number of clusters, in 1..N.
        rng: Generator whose seed starts the clustering; it is not advanced.

    Examples:
        >>> import ddsdk
        >>> import torch
        >>> ddsdk.data.k_means_centres(torch.rand(20, 3), 2, ddsdk.generator(0)).shape
        torch.Size([2, 3])
    """
    _check(features, n)
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    flat = features.cpu().double().numpy()
    with warnings.catch_warnings():
        # scikit-learn warns if there are fewer distinct items than centres; coinciding centres are correct then.
        warnings.simplefilter("ignore", ConvergenceWarning)
        centres = KMeans(n, n_init=1, random_state=rng.initial_seed() % 2**32).fit(flat).cluster_centers_
    return torch.from_numpy(centres)


def moderate(features: Tensor, n: int) -> Tensor:
    """Return the items whose distance from the mean is nearest to the median distance.

    Items near the mean are easy and alike, and items far from it are hard or wrongly labelled. Both are left out.

    Args:
        features: Features of the items, (N, F).
        n: Number of items to select, in 1..N.

    Returns:
        Distinct positions in `features`, (n,) int64, the item nearest to the median distance first.

    Examples:
        >>> import ddsdk
        >>> import torch
        >>> ddsdk.data.moderate(torch.tensor([[0.0], [1.0], [3.0], [4.5], [9.0]]), 2).tolist()
        [1, 0]
    """
    _check(features, n)
    distance: Tensor = torch.linalg.vector_norm(features - features.mean(0), dim=1)
    rising = distance.sort().values
    # torch.median would give the lower one of the two middle distances.
    median = (rising[(len(rising) - 1) // 2] + rising[len(rising) // 2]) / 2
    return (distance - median).abs().sort(stable=True).indices[:n].cpu()


def _check(features: Tensor, n: int) -> None:
    require(1 <= n <= len(features), "n", f"lie in 1..{len(features)}", n)
