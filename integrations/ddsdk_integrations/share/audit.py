"""Attacks on a set, and what networks that train on it do on held-out people."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

import ddsdk as dd
from ddsdk.foundation import require, require_count, root
from ddsdk.judging import LikelihoodRatio, Roc, confidences, roc, trained_networks
from ddsdk.training import probabilities
from ddsdk_integrations.share.groups import group_ids

_BINS = 15


@final
@dataclass(frozen=True, kw_only=True)
class Figures:
    """Figures of the mean prediction of several networks.

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
        networks: Functions from (B, C, H, W) to logits (B, K); their probabilities are averaged.
        held_out: Images in the value space of the networks.
        groups: Groups of the images, one entry each.
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


@final
@dataclass(frozen=True, kw_only=True)
class Audit:
    """Results of attacks on a set, and its use. Passing them proves nothing.

    Attributes:
        membership: Curve of telling distilled from held-out records by networks that train on the set.
        distance: Curve of the same by the distance to the nearest synthetic image.
        near_copies: Synthetic images nearer to a record than the nearest hundredth of held-out records are.
        smallest_distance: Least distance of a synthetic image to a record, root mean square over pixels of 0..1.
        shadow: Result of the likelihood-ratio attack on the recipe, where shadow runs were made.
        figures: Figures of networks that train on the set, on held-out groups.
    """

    membership: Roc
    distance: Roc
    near_copies: int
    smallest_distance: float
    shadow: LikelihoodRatio | None
    figures: Figures

    @property
    def record(self) -> dict[str, Any]:
        """Plain values for the card."""
        found: dict[str, Any] = {
            "membership_auc": self.membership.auc,
            "membership_at_1": self.membership.at_1,
            "distance_auc": self.distance.auc,
            "distance_at_1": self.distance.at_1,
            "near_copies": self.near_copies,
            "smallest_distance": self.smallest_distance,
        }
        if self.shadow is not None:
            areas = {"confidence_auc": self.shadow.confidence.auc, "distance_auc": self.shadow.distance.auc}
            found["shadow"] = {"runs": self.shadow.runs, **areas}
        return {**found, "meaning": "attacks that were tried; passing them proves nothing"}


def audit(
    distilled: dd.Distilled,
    inside: dd.RealData,
    outside: dd.RealData,
    groups: Sequence[Hashable] | Tensor,
    *,
    seed: int | torch.Generator = 0,
    networks: int = 3,
    shadow: LikelihoodRatio | None = None,
) -> Audit:
    """Attack a set, and measure its use on the same networks.

    Args:
        distilled: Set that is attacked.
        inside: Records that it was made of.
        outside: Held-out records; of other groups, or the audit shows nothing.
        groups: Groups of the held-out images, one entry each.
        seed: Root of the networks: an integer, or a generator, which is not advanced.
        networks: Number of networks that train on the set, by its own protocol.
        shadow: Result of `ddsdk.audit_by_likelihood` on the recipe; None without one.
    """
    require_count("networks", networks)
    seen, unseen = (side.to("cpu").with_preprocess(distilled.preprocess) for side in (inside, outside))
    trained = trained_networks(distilled, None, networks, root(seed))
    near = dd.nearest_records(distilled, inside, outside)
    return Audit(
        membership=roc(confidences(trained, seen), confidences(trained, unseen)),
        distance=near.scores,
        near_copies=near.copies,
        smallest_distance=near.smallest,
        shadow=shadow,
        figures=figures(trained, unseen, group_ids(groups, len(unseen))),
    )
