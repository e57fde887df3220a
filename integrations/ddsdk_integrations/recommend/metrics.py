"""Scores of a ranking of items: hit rate, nDCG, and precision that is weighted against popularity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from ddsdk.foundation import require


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
