"""What networks that train on a set do on held-out people: sensitivity, votes of groups, calibration."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

import ddsdk as dd
from ddsdk.foundation import require
from ddsdk.training import probabilities
from ddsdk_integrations.share.groups import group_ids

_BINS = 15


@final
@dataclass(frozen=True, kw_only=True)
class Figures:
    """Of the mean prediction of several networks.

    Attributes:
        accuracy: Share of images whose class is right.
        sensitivity: The same of each class, in the order of the classes.
        balanced: Mean of the sensitivities.
        groups: Mean sensitivity when all images of a group vote; None where a group has images of several classes.
        calibration: Expected calibration error, 15 bins: mean distance of confidence and accuracy.
    """

    accuracy: float
    sensitivity: tuple[float, ...]
    balanced: float
    groups: float | None
    calibration: float


def figures(networks: Sequence[nn.Module], held_out: dd.RealData, groups: Sequence[Hashable] | Tensor) -> Figures:
    """Return the figures of networks on held-out images.

    Args:
        networks: Map (B, C, H, W) to logits (B, K); their probabilities are averaged.
        held_out: In the value space of the networks.
        groups: One entry for each image.
    """
    require(len(networks) > 0, "networks", "hold one", 0)
    x, labels = held_out.batch(torch.arange(len(held_out))).x, held_out.labels
    found = torch.stack([probabilities(network, x) for network in networks]).mean(0)
    recall = _recall(found, labels)
    return Figures(
        accuracy=float((found.argmax(1) == labels).double().mean()),
        sensitivity=tuple(recall.tolist()),
        balanced=float(recall.mean()),
        groups=_of_groups(found, labels, group_ids(groups, len(labels))),
        calibration=_calibration(found, labels),
    )


def _recall(found: Tensor, labels: Tensor) -> Tensor:
    right = (found.argmax(1) == labels).double()
    sizes = torch.bincount(labels, minlength=found.shape[1])
    return torch.bincount(labels, weights=right, minlength=found.shape[1]) / sizes.clamp_min(1)


def _of_groups(found: Tensor, labels: Tensor, ids: Tensor) -> float | None:
    count = int(ids.max()) + 1
    votes = torch.zeros(count, found.shape[1]).index_add_(0, ids, found.cpu())
    low = torch.full((count,), found.shape[1]).scatter_reduce_(0, ids, labels.cpu(), "amin")
    high = torch.zeros(count, dtype=torch.int64).scatter_reduce_(0, ids, labels.cpu(), "amax")
    if not torch.equal(low, high):
        return None
    recall = _recall(votes, low)
    return float(recall[torch.bincount(low, minlength=found.shape[1]) > 0].mean())


def _calibration(found: Tensor, labels: Tensor) -> float:
    sure, guess = found.double().max(1)
    bins = (sure * _BINS).long().clamp_max(_BINS - 1)
    gap = sure - (guess == labels).double()
    return float(torch.bincount(bins, weights=gap, minlength=_BINS).abs().sum() / len(labels))
