"""Recommenders in closed form (the infinitely wide autoencoder, EASE, popularity), and scores of a ranking of items."""

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
    """Kernel ridge regression from users to users, with the kernel of an infinitely wide ReLU network.

    R = k(X', X) (k(X, X) + ridge tr k(X, X) / n I)^-1 X: the engine's kernel machine, whose labels are the users.

    Attributes:
        ridge: Ridge in units of the mean of the diagonal.
        depth: Number of hidden layers.

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
            users: Rows of users to learn from, (n, I), real or synthetic.
            new: Known items of the users to recommend to, (N, I).
        """
        return kernel_machine("fc-ntk", depth=self.depth, ridge=self.ridge).predict(users, users, new)


@final
@dataclass(frozen=True, kw_only=True)
class EASE:
    """The linear autoencoder without a diagonal: B = I - P diag(1 / P_ii), P = (X^T X + ridge I)^-1.

    Attributes:
        ridge: Ridge added to the diagonal, > 0.

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
        found: Tensor = new.double() @ weights
        return found


def popularity(users: Tensor, new: Tensor) -> Tensor:
    """Return the number of `users`, (n, I), with each item, as the score for all of `new`, (N, I) float64."""
    return users.double().sum(0).expand(len(new), -1)


@final
@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Means over users with something held out, in 0..1.

    Attributes:
        hits: Share of held-out items among the first k, of at most k.
        ndcg: Discounted gain over that of the best ranking.
        psp: Gain of 1 / propensity over that of the best ranking: popular items count less.
    """

    hits: float
    ndcg: float
    psp: float


def propensities(counts: Tensor, *, a: float = 0.55, b: float = 1.5) -> Tensor:
    """Return the probability that an item that is liked is seen, (I,) float64: 1 / (1 + C e^(-a log(n + b))).

    C = (log N - 1) (b + 1)^a, N the number of interactions and n that of an item.

    Args:
        counts: Interactions of each item, (I,).
        a: Exponent a of the published model.
        b: Offset b of the published model.

    References:
        Jain, Prabhu and Varma, "Extreme Multi-label Loss Functions for Recommendation, Tagging, Ranking & Other Missing
        Label Applications", KDD 2016.
    """
    n = counts.double()
    c = (n.sum().log() - 1) * (b + 1) ** a
    found: Tensor = 1 / (1 + c * (-a * (n + b).log()).exp())
    return found


def ranking(scores: Tensor, seen: Tensor, held_out: Tensor, propensity: Tensor, k: int = 10) -> Ranking:
    """Return the figures of the first k items that a user has not seen.

    Args:
        scores: Scores, (U, I); higher is better.
        seen: Items that are not recommended again, (U, I): training items, and validation items in a test.
        held_out: Items that the user likes beside them, (U, I).
        propensity: Propensities of the training items, (I,), see `propensities`.
        k: Number of items that are recommended.

    Raises:
        ValueError: If an item is seen and held out, or nothing is held out.
    """
    clash = bool(((seen > 0) & (held_out > 0)).any())
    require(not clash, "held_out", "hold nothing that was seen", "an item in both")
    n = held_out.shape[1]
    require(1 <= k <= n, "k", f"lie in 1..{n}", k)
    some = held_out.sum(1) > 0
    require(bool(some.any()), "held_out", "hold an item", "none")
    scores, seen, truth = scores[some].double(), seen[some], held_out[some].double()
    order = scores.masked_fill(seen > 0, -torch.inf).topk(k, dim=1).indices
    hit = truth.gather(1, order)
    best = truth.sum(1).clamp_max(k)
    discount = 1 / torch.arange(2, k + 2).double().log2()
    ideal = discount.cumsum(0)[best.long() - 1]
    worth = truth / propensity
    most = worth.topk(k, dim=1).values.sum(1)
    return Ranking(
        hits=float((hit.sum(1) / best).mean()),
        ndcg=float(((hit * discount).sum(1) / ideal).mean()),
        psp=float((worth.gather(1, order).sum(1) / most).mean()),
    )
