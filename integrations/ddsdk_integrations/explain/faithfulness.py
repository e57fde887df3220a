"""Faithfulness of explanations: remove the images of an explanation, fit again, and compare predictions."""

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
class RemovalEffect:
    """Mean drop of the predicted class's score after k synthetic images are removed and the regression is fitted again.

    Attributes:
        count: Number k of removed images.
        top: Drop without the k images of the explanation, those with the largest contributions.
        random: Drop without k random images.
        least: Drop without the k images with the smallest absolute contributions.
    """

    count: int
    top: float
    random: float
    least: float


def removal_test(explainer: Explainer, x: Tensor, count: int, rng: torch.Generator) -> RemovalEffect:
    """Return the effect of removing synthetic images on predictions: of an explanation's images, and of others.

    Args:
        explainer: Explainer of the distilled set.
        x: Images to predict, (B, C, H, W), in the value space of the set.
        count: Number of synthetic images to remove, fewer than M.
        rng: Generator of the random images.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.explain import Explainer, removal_test
        >>> real = ddsdk.load("digits")
        >>> explainer = Explainer(ddsdk.distill(ddsdk.KIP(ipc=1, steps=2, real_batch=50), real))
        >>> removal_test(explainer, real.batch(real.index_of_class(3)).x, 2, ddsdk.generator(0)).count
        2
    """
    require_count("count", count)
    require(count < len(explainer), "count", f"leave some of the {len(explainer)} images", count)
    explanation = explainer.explain(x)
    random_images = torch.stack([torch.randperm(len(explainer), generator=rng)[:count] for _ in range(len(x))])
    removed_images = {
        "top": explanation.top(count),
        "random": random_images.to(x.device),
        "least": (-explanation.own.abs()).topk(count, dim=1).indices,
    }
    drops = {name: explanation.prediction - explainer.without(x, index) for name, index in removed_images.items()}
    means = {name: float(drop.gather(1, explanation.classes[:, None]).mean()) for name, drop in drops.items()}
    return RemovalEffect(count=count, **means)


def leave_one_out(machine: KernelMachine, records: dd.RealData, x: Tensor, classes: Tensor) -> Tensor:
    """Return exact leave-one-out influences for kernel ridge regression on all training images, (B, N) float64.

    An influence is the drop of a score after the removal of one training image. With P = (k(T, T) + r I)^-1 and
    alpha = P (y - 1/K), the score of x drops by (k(x, T) P)_t alpha_t / P_tt without image t. The ridge r stays fixed.
    `Influence` is the cheap approximation through a distilled set.

    Args:
        machine: Kernel and ridge of the regression.
        records: Training images, N of them.
        x: Images to predict, (B, C, H, W), in the value space of the records.
        classes: Class whose score is taken, for each image to predict, (B,) int64.

    Cost: N^3 multiplications and two matrices of N^2 numbers.

    Examples:
        >>> import ddsdk, torch
        >>> from ddsdk.training import kernel_machine
        >>> from ddsdk_integrations.explain import leave_one_out
        >>> real = ddsdk.load("digits").subset(torch.arange(50))
        >>> x, classes = real.batch(torch.arange(3)).x, real.labels[:3]
        >>> leave_one_out(kernel_machine("fc-ntk"), real, x, classes).shape
        torch.Size([3, 50])
    """
    images, labels = records.batch(torch.arange(len(records)))
    _, inverse = gram_and_inverse(machine, images)
    alpha = inverse @ targets(labels)
    # The leave-one-out residual of image t is alpha_t / P_tt.
    residuals = alpha / inverse.diagonal()[:, None]
    return machine.kernel(x, images) @ inverse * residuals.T[classes]


def random_subsets(n: int, count: int, share: float, rng: torch.Generator) -> Tensor:
    """Return the members of `count` random subsets of n images, (count, n) bool, of round(share n) images each.

    `share` lies strictly between 0 and 1.
    """
    require(0 < share < 1, "share", "lie strictly between 0 and 1", share)
    members = torch.zeros(count, n, dtype=torch.bool)
    for row in members:
        row[torch.randperm(n, generator=rng)[: round(share * n)]] = True
    return members


def data_modelling_score(influence: Tensor, subsets: Tensor, outputs: Tensor) -> float:
    """Return the linear data-modelling score (LDS) of influences.

    For each predicted image, it is the rank correlation over subsets between the score of a model trained on the
    subset and the summed influence of the subset's members. The result is the mean over images.

    Args:
        influence: Influence of each training image on each score, (B, N).
        subsets: Members of each subset, (S, N) bool.
        outputs: Scores of the models of the subsets, (S, B).

    Examples:
        >>> import ddsdk, torch
        >>> from ddsdk_integrations.explain import data_modelling_score, random_subsets
        >>> influence, subsets = torch.rand(3, 12), random_subsets(12, 20, 0.5, ddsdk.generator(0))
        >>> round(data_modelling_score(influence, subsets, subsets.float() @ influence.T), 1)
        1.0

    References:
        Park, Georgiev, Ilyas, Leclerc and Madry, "TRAK: Attributing Model Behavior at Scale", ICML 2023,
        arXiv:2303.14186.
    """
    shape = (len(subsets), len(influence))
    require(tuple(outputs.shape) == shape, "outputs", f"have shape {shape}", tuple(outputs.shape))
    predicted = subsets.double() @ influence.double().T
    return float(rank_correlation(predicted.T, outputs.double().T).mean())


def rank_correlation(first: Tensor, second: Tensor) -> Tensor:
    """Return Spearman's correlation between row i of `first` and row i of `second`, (B, n) each: (B,) float64.

    Ties have their mean rank; a constant row gives 0.
    """
    a, b = (_centred_ranks(rows) for rows in (first, second))
    norms = a.norm(dim=1) * b.norm(dim=1)
    correlations: Tensor = (a * b).sum(1) / norms.clamp_min(torch.finfo(a.dtype).tiny)
    return correlations


def _centred_ranks(rows: Tensor) -> Tensor:
    # The mean rank of ties is halfway between the numbers of smaller entries and of entries that are not larger.
    ordered = rows.contiguous().sort(dim=1).values
    low, high = (torch.searchsorted(ordered, rows.contiguous(), right=right) for right in (False, True))
    ranks = (low + high).double() / 2
    return ranks - ranks.mean(1, keepdim=True)
