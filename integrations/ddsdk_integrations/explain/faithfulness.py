"""Tests of explanations: take away what they name, solve again, and compare."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

import ddsdk as dd
from ddsdk.foundation import require, require_count
from ddsdk.objectives import targets
from ddsdk.training import KernelMachine
from ddsdk_integrations.explain.weights import Explainer, gram_and_inverse


@final
@dataclass(frozen=True, kw_only=True)
class Removal:
    """Mean fall of the score of the predicted class when k synthetic images are removed and the rest is solved again.

    Attributes:
        count: Number k of removed images.
        top: Fall without the k images that the explanation names.
        random: Fall without k images at random.
        least: Fall without the k images that add least by absolute value.
    """

    count: int
    top: float
    random: float
    least: float


def removal(explainer: Explainer, x: Tensor, count: int, rng: torch.Generator) -> Removal:
    """Measure whether the named synthetic images carry predictions.

    Args:
        explainer: Explainer of the set.
        x: Images to predict, (B, C, H, W), in the value space of the set.
        count: Number of images of the set to remove, fewer than it has.
        rng: Generator of the random ones.
    """
    require_count("count", count)
    require(count < len(explainer), "count", f"leave some of the {len(explainer)} images", count)
    found = explainer.explain(x)
    chance = torch.stack([torch.randperm(len(explainer), generator=rng)[:count] for _ in range(len(x))])
    named = {
        "top": found.top(count),
        "random": chance.to(x.device),
        "least": (-found.own.abs()).topk(count, dim=1).indices,
    }
    falls = {name: found.prediction - explainer.without(x, picks) for name, picks in named.items()}
    means = {name: float(fall.gather(1, found.classes[:, None]).mean()) for name, fall in falls.items()}
    return Removal(count=count, **means)


def leave_one_out(machine: KernelMachine, records: dd.RealData, x: Tensor, classes: Tensor) -> Tensor:
    """Return the falls of scores of regression on *all* records without each of them, (B, N) float64: the truth.

    With P = (k(T, T) + r I)^-1 and alpha = P (y - 1/K), the score of x falls by (k(x, T) P)_t alpha_t / P_tt. The
    amount of the ridge stays. `Influence` stands in for it.

    Args:
        machine: Kernel and ridge.
        records: Training images, N of them.
        x: Images to predict, (B, C, H, W), in the value space of the records.
        classes: Class of each of them whose score is meant, (B,) int64.

    Cost: N^3 multiplications and two matrices of N^2 numbers.
    """
    images, labels = records.batch(torch.arange(len(records)))
    _, inverse = gram_and_inverse(machine, images)
    alpha = inverse @ targets(labels)
    pull = alpha / inverse.diagonal()[:, None]
    return machine.kernel(x, images) @ inverse * pull.T[classes]


def random_subsets(n: int, count: int, share: float, rng: torch.Generator) -> Tensor:
    """Return `count` random subsets of n things, (count, n) bool, each of round(share n), 0 < share < 1."""
    require(0 < share < 1, "share", "lie strictly between 0 and 1", share)
    found = torch.zeros(count, n, dtype=torch.bool)
    for row in found:
        row[torch.randperm(n, generator=rng)[: round(share * n)]] = True
    return found


def data_modelling_score(influence: Tensor, subsets: Tensor, outputs: Tensor) -> float:
    """Return the linear data-modelling score of an influence.

    For each image the rank correlation, over subsets, of its score under the model of a subset with the summed
    influence of the subset's members; the mean over images.

    Args:
        influence: Influence of each training image on each score, (B, N).
        subsets: Members of subsets, (S, N) bool.
        outputs: Scores under the models of the subsets, (S, B).

    References:
        Park, Georgiev, Ilyas, Leclerc and Madry, "TRAK: Attributing Model Behavior at Scale", ICML 2023,
        arXiv:2303.14186.
    """
    shape = (len(subsets), len(influence))
    require(tuple(outputs.shape) == shape, "outputs", f"have shape {shape}", tuple(outputs.shape))
    foretold = subsets.double() @ influence.double().T
    return float(rank_correlation(foretold.T, outputs.double().T).mean())


def rank_correlation(first: Tensor, second: Tensor) -> Tensor:
    """Return Spearman's correlation of each pair of rows, (B,): (B, n) against (B, n). Ties have their mean rank."""
    a, b = (_ranks(rows) for rows in (first, second))
    lengths = a.norm(dim=1) * b.norm(dim=1)
    found: Tensor = (a * b).sum(1) / lengths.clamp_min(torch.finfo(a.dtype).tiny)
    return found


def _ranks(rows: Tensor) -> Tensor:
    """Return the number of smaller entries of its row for each entry, plus half of equal ones, less the mean."""
    ordered = rows.contiguous().sort(dim=1).values
    low, high = (torch.searchsorted(ordered, rows.contiguous(), right=right) for right in (False, True))
    ranks = (low + high).double() / 2
    return ranks - ranks.mean(1, keepdim=True)
