"""Recommenders in closed form (infinitely wide autoencoder, EASE, popularity), and ranking metrics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from ddsdk.foundation import NonNegativeFloat, PositiveFloat, PositiveInt, check_numbers, require
from ddsdk.training import kernel_machine


@final
@dataclass(frozen=True, kw_only=True)
class WideAutoencoder:
    """The infinitely wide autoencoder: kernel ridge regression from users to users with a neural tangent kernel.

    Scores are R = k(X', X) (k(X, X) + ridge tr k(X, X) / n I)^-1 X for rows X' of users to recommend to, with the
    kernel of an infinitely wide ReLU network.

    Attributes:
        ridge: Ridge in units of the mean of the Gram matrix's diagonal.
        depth: Number of hidden layers.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.recommend import WideAutoencoder, simulated_interactions
        >>> users = simulated_interactions(100, 40, ddsdk.generator(0)).matrix
        >>> WideAutoencoder(ridge=1.0).scores(users, users[:3]).shape[0]
        3

    References:
        Sachdeva, Dhaliwal, Wu and McAuley, "Infinite Recommendation Networks: A Data-Centric Approach", NeurIPS 2022.
    """

    ridge: NonNegativeFloat = 1.0
    depth: PositiveInt = 1

    def __post_init__(self) -> None:
        check_numbers(self)

    @torch.no_grad()
    def scores(self, users: Tensor, new: Tensor) -> Tensor:
        """Return a score of each item for each new user, (N, I) float64.

        Args:
            users: Training users, real or synthetic, as rows of items, (n, I).
            new: Known items of the users to recommend to, (N, I).
        """
        return kernel_machine("fc-ntk", depth=self.depth, ridge=self.ridge).fitted(users, users)(new)


@final
@dataclass(frozen=True, kw_only=True)
class EASE:
    """EASE, the linear autoencoder with a zero diagonal: B = I - P diag(1 / P_ii) with P = (X^T X + ridge I)^-1.

    Attributes:
        ridge: Ridge on the diagonal of X^T X, > 0.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.recommend import EASE, simulated_interactions
        >>> users = simulated_interactions(100, 40, ddsdk.generator(0)).matrix
        >>> EASE(ridge=50.0).scores(users, users[:3]).shape[0]
        3

    References:
        Steck, "Embarrassingly Shallow Autoencoders for Sparse Data", WWW 2019, arXiv:1905.03375.
    """

    ridge: PositiveFloat = 100.0

    def __post_init__(self) -> None:
        check_numbers(self)

    def scores(self, users: Tensor, new: Tensor) -> Tensor:
        """Return a score of each item for each new user, (N, I) float64; see `WideAutoencoder.scores`."""
        x = users.double()
        inverse = torch.linalg.inv(x.T @ x + self.ridge * torch.eye(x.shape[1], dtype=x.dtype))
        weights = -inverse / inverse.diagonal()
        weights.fill_diagonal_(0)
        scores: Tensor = new.double() @ weights
        return scores


def popularity_scores(users: Tensor, new: Tensor) -> Tensor:
    """Return the popularity of each item as its score for every new user, (N, I) float64.

    Args:
        users: Training users as rows of items, (n, I).
        new: Users to recommend to, (N, I); only their number matters.

    Examples:
        >>> import torch
        >>> from ddsdk_integrations.recommend import popularity_scores
        >>> popularity_scores(torch.tensor([[1, 0], [1, 1]]), torch.zeros(1, 2)).tolist()
        [[2.0, 1.0]]
    """
    return users.double().sum(0).expand(len(new), -1)


@final
@dataclass(frozen=True, kw_only=True)
class RankingMetrics:
    """Ranking metrics in 0..1, means over the users with held-out items.

    Attributes:
        hits: Hit rate, the number of held-out items among the first k over the smaller of k and all held-out items.
        ndcg: Normalised discounted cumulative gain of the first k items.
        psp: Propensity-scored precision: the gain of 1 / propensity over that of the best ranking, so popular items
            count less.
    """

    hits: float
    ndcg: float
    psp: float


def propensities(counts: Tensor, *, a: float = 0.55, b: float = 1.5) -> Tensor:
    """Return the propensity of each item, the probability of observing an item that a user likes, (I,) float64.

    The model is 1 / (1 + C e^(-a log(n + b))) with C = (log N - 1) (b + 1)^a, for n interactions of an item and N
    interactions in all.

    Args:
        counts: Training interactions of each item, (I,).
        a: Exponent of the published model.
        b: Offset of the published model.

    Examples:
        >>> import torch
        >>> from ddsdk_integrations.recommend import propensities
        >>> bool(propensities(torch.tensor([1, 10, 100])).diff().min() > 0)
        True

    References:
        Jain, Prabhu and Varma, "Extreme Multi-label Loss Functions for Recommendation, Tagging, Ranking & Other Missing
        Label Applications", KDD 2016.
    """
    n = counts.double()
    c = (n.sum().log() - 1) * (b + 1) ** a
    propensity: Tensor = 1 / (1 + c * (-a * (n + b).log()).exp())
    return propensity


def ranking_metrics(scores: Tensor, seen: Tensor, held_out: Tensor, propensity: Tensor, k: int = 10) -> RankingMetrics:
    """Return the metrics of recommending to each user the k new items with the highest scores.

    An item that is both seen and held out, or no held-out item at all, raises ValueError.

    Args:
        scores: Score of each item for each user, (U, I); higher is better.
        seen: Items that are not recommended again, (U, I): training items, and validation items in a test.
        held_out: Held-out items of each user, (U, I).
        propensity: Propensity of each item, (I,), see `propensities`.
        k: Number of recommended items, in 1..I.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.recommend import popularity_scores, propensities, ranking_metrics
        >>> from ddsdk_integrations.recommend import simulated_interactions
        >>> train, validation, _ = simulated_interactions(100, 40, ddsdk.generator(0)).split(ddsdk.generator(1))
        >>> seen = train.matrix
        >>> metrics = ranking_metrics(popularity_scores(seen, seen), seen, validation, propensities(seen.sum(0)))
        >>> 0 <= metrics.ndcg <= 1
        True
    """
    overlap = bool(((seen > 0) & (held_out > 0)).any())
    require(not overlap, "held_out", "have no seen item", "an item in both")
    n = held_out.shape[1]
    require(1 <= k <= n, "k", f"lie in 1..{n}", k)
    tested = held_out.sum(1) > 0
    require(bool(tested.any()), "held_out", "have at least one item", "none")
    scores, seen, relevant = scores[tested].double(), seen[tested], held_out[tested].double()
    order = scores.masked_fill(seen > 0, -torch.inf).topk(k, dim=1).indices
    hit = relevant.gather(1, order)
    most_hits = relevant.sum(1).clamp_max(k)
    discount = 1 / torch.arange(2, k + 2).double().log2()
    ideal = discount.cumsum(0)[most_hits.long() - 1]
    gain = relevant / propensity
    best_gain = gain.topk(k, dim=1).values.sum(1)
    return RankingMetrics(
        hits=float((hit.sum(1) / most_hits).mean()),
        ndcg=float(((hit * discount).sum(1) / ideal).mean()),
        psp=float((gain.gather(1, order).sum(1) / best_gain).mean()),
    )
