"""Is an explanation true? Take away what it names, solve again, and compare."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

import ddsdk as dd
from ddsdk.foundation import require, require_count
from ddsdk.objectives import targets
from ddsdk.training import KernelMachine, solve
from ddsdk_integrations.explain.weights import Explainer


@final
@dataclass(frozen=True, kw_only=True)
class Removal:
    """Mean fall of the score of the predicted class when k synthetic images are removed and the rest is solved again.

    Attributes:
        count: k.
        top: Without the k that the explanation names.
        random: Without k at random.
        least: Without the k that add least by absolute value.
    """

    count: int
    top: float
    random: float
    least: float


def removal(explainer: Explainer, x: Tensor, count: int, rng: torch.Generator) -> Removal:
    """Measure whether the named synthetic images carry predictions.

    Args:
        explainer: Of the set.
        x: Images to predict, (B, C, H, W), in the value space of the set.
        count: How many images of the set to remove.
        rng: Draws the random ones.

    Raises:
        ValueError: If the set would be left with nothing.
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
    classes = found.classes[:, None]
    before = found.prediction.gather(1, classes)
    falls = {
        name: float((before - explainer.without(x, picks).gather(1, classes)).mean()) for name, picks in named.items()
    }
    return Removal(count=count, **falls)


def leave_one_out(machine: KernelMachine, records: dd.RealData, x: Tensor, classes: Tensor) -> Tensor:
    """Return by how much scores of regression on *all* records fall without each of them, (B, N) float64: the truth.

    With P = (k(T, T) + r I)^-1 and alpha = P (y - 1/K), the score of x falls by (k(x, T) P)_t alpha_t / P_tt. The
    amount of the ridge stays. This is what influence through a set stands in for.

    Args:
        machine: Kernel and ridge.
        records: N training images.
        x: (B, C, H, W), in the value space of the records.
        classes: The class of each whose score is meant, (B,) int64.

    Cost: N^3 multiplications and two matrices of N^2 numbers.
    """
    images, labels = records.batch(torch.arange(len(records)))
    gram = machine.kernel(images, images)
    inverse = solve(gram, torch.eye(len(gram), dtype=gram.dtype, device=gram.device), machine.ridge).values
    alpha = inverse @ targets(labels)
    pull = alpha / inverse.diagonal()[:, None]
    return machine.kernel(x, images) @ inverse * pull.T[classes]


def random_subsets(n: int, count: int, share: float, rng: torch.Generator) -> Tensor:
    """Return `count` random subsets of n things, (count, n) bool, each of round(share n).

    Raises:
        ValueError: If `share` does not lie strictly between 0 and 1.
    """
    require(0 < share < 1, "share", "lie strictly between 0 and 1", share)
    found = torch.zeros(count, n, dtype=torch.bool)
    for row in found:
        row[torch.randperm(n, generator=rng)[: round(share * n)]] = True
    return found


def data_modelling_score(influence: Tensor, subsets: Tensor, outputs: Tensor) -> float:
    """Return the linear data-modelling score: how well sums of influence foretell models of subsets.

    For each image the rank correlation, over subsets, of its score under the model of a subset with the summed
    influence of the subset's members; the mean over images.

    Args:
        influence: Of each training image on each score, (B, N).
        subsets: (S, N) bool.
        outputs: What the models of the subsets say, (S, B).

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
    a, b = (rows - rows.mean(1, keepdim=True) for rows in (a, b))
    lengths = a.norm(dim=1) * b.norm(dim=1)
    found: Tensor = (a * b).sum(1) / lengths.clamp_min(torch.finfo(a.dtype).tiny)
    return found


def _ranks(rows: Tensor) -> Tensor:
    """Return how many entries of its row lie below each, and half of those that equal it."""
    ordered = rows.contiguous().sort(dim=1).values
    low, high = (torch.searchsorted(ordered, rows.contiguous(), right=right) for right in (False, True))
    return (low + high).double() / 2
