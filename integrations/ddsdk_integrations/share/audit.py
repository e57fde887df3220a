"""Audit of a release: membership attacks on a set, and its use on held-out groups."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

import ddsdk as dd
from ddsdk.foundation import as_generator, require, require_count
from ddsdk.judging import LikelihoodRatio, Roc, confidences, roc, trained_networks
from ddsdk.training import probabilities
from ddsdk_integrations.share.groups import group_ids

_BINS = 15


@final
@dataclass(frozen=True, kw_only=True)
class UseMetrics:
    """Metrics of the averaged predictions of several networks.

    Attributes:
        accuracy: Share of correctly classified images, in 0..1.
        sensitivity: Share of correctly classified images of each class, in the order of the classes.
        balanced: Balanced accuracy, the mean sensitivity.
        groups: Balanced accuracy over groups, whose images vote by their mean probabilities; None if a group has images
            of several classes.
        calibration: Expected calibration error, with 15 bins.
    """

    accuracy: float
    sensitivity: tuple[float, ...]
    balanced: float
    groups: float | None
    calibration: float


def use_metrics(
    networks: Sequence[nn.Module], held_out: dd.RealData, groups: Sequence[Hashable] | Tensor
) -> UseMetrics:
    """Return the metrics of an ensemble of networks on held-out images.

    Args:
        networks: Functions from images (B, C, H, W) to logits (B, K); their probabilities are averaged.
        held_out: Held-out images in the value space of the networks.
        groups: Group of each image, such as its patient.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.share import use_metrics
        >>> real = ddsdk.load("digits")
        >>> network = ddsdk.network_factory("mlp", real.image_shape, 10, width=4)(ddsdk.generator(0))
        >>> len(use_metrics([network], real, groups=range(len(real))).sensitivity)
        10
    """
    require(len(networks) > 0, "networks", "hold at least one network", 0)
    x, labels = held_out.batch(torch.arange(len(held_out))).x, held_out.labels
    predictions = torch.stack([probabilities(network, x) for network in networks]).mean(0)
    recall = _recall(predictions, labels)
    return UseMetrics(
        accuracy=float((predictions.argmax(1) == labels).double().mean()),
        sensitivity=tuple(recall.tolist()),
        balanced=float(recall.mean()),
        groups=_group_recall(predictions, labels, group_ids(groups, len(labels))),
        calibration=_calibration_error(predictions, labels),
    )


def _recall(predictions: Tensor, labels: Tensor) -> Tensor:
    correct = (predictions.argmax(1) == labels).double()
    sizes = torch.bincount(labels, minlength=predictions.shape[1])
    return torch.bincount(labels, weights=correct, minlength=predictions.shape[1]) / sizes.clamp_min(1)


def _group_recall(predictions: Tensor, labels: Tensor, ids: Tensor) -> float | None:
    count, classes = int(ids.max()) + 1, predictions.shape[1]
    votes = torch.zeros(count, classes).index_add_(0, ids, predictions.cpu())
    lowest = torch.full((count,), classes).scatter_reduce_(0, ids, labels.cpu(), "amin")
    highest = torch.zeros(count, dtype=torch.int64).scatter_reduce_(0, ids, labels.cpu(), "amax")
    # Groups with images of several classes have no class of their own.
    if not torch.equal(lowest, highest):
        return None
    recall = _recall(votes, lowest)
    return float(recall[torch.bincount(lowest, minlength=classes) > 0].mean())


def _calibration_error(predictions: Tensor, labels: Tensor) -> float:
    confidence, predicted = predictions.double().max(1)
    bins = (confidence * _BINS).long().clamp_max(_BINS - 1)
    gap = confidence - (predicted == labels).double()
    return float(torch.bincount(bins, weights=gap, minlength=_BINS).abs().sum() / len(labels))


@final
@dataclass(frozen=True, kw_only=True)
class ReleaseAudit:
    """Results of attacks on a set, and metrics of its use. Resisting these attacks is no proof of privacy.

    Attributes:
        membership: ROC curve of the membership attack by the confidences of networks that train on the set.
        distance: ROC curve of the membership attack by the distance to the nearest synthetic image.
        near_copies: Number of synthetic images nearer to a distilled record than the nearest 1 % of held-out records.
        smallest_distance: Smallest distance of a synthetic image to a distilled record, root mean square over pixels in
            0..1.
        shadow: Result of the likelihood-ratio attack on the recipe; None without shadow runs.
        figures: Metrics, on held-out groups, of networks that train on the set.
    """

    membership: Roc
    distance: Roc
    near_copies: int
    smallest_distance: float
    shadow: LikelihoodRatio | None
    figures: UseMetrics

    @property
    def record(self) -> dict[str, Any]:
        """Results of the attacks as JSON values for the card."""
        results: dict[str, Any] = {
            "membership_auc": self.membership.auc,
            "membership_at_1": self.membership.at_1,
            "distance_auc": self.distance.auc,
            "distance_at_1": self.distance.at_1,
            "near_copies": self.near_copies,
            "smallest_distance": self.smallest_distance,
        }
        if self.shadow is not None:
            areas = {"confidence_auc": self.shadow.confidence.auc, "distance_auc": self.shadow.distance.auc}
            results["shadow"] = {"runs": self.shadow.runs, **areas}
        return {**results, "meaning": "attacks that were tried; passing them proves nothing"}


def audit_release(
    distilled: dd.Distilled,
    inside: dd.RealData,
    outside: dd.RealData,
    groups: Sequence[Hashable] | Tensor,
    *,
    seed: int | torch.Generator = 0,
    networks: int = 3,
    shadow: LikelihoodRatio | None = None,
) -> ReleaseAudit:
    """Return the audit of a set: membership attacks on it, and metrics of its use by the same networks.

    Args:
        distilled: Distilled set to attack.
        inside: Records that were distilled.
        outside: Held-out records of other groups. With records of the same groups, members and non-members would be
            too similar for an attack.
        groups: Group of each held-out record.
        seed: Root of the networks: an integer, or a generator, which is not advanced.
        networks: Number of networks that train on the set, by its own protocol.
        shadow: Result of `ddsdk.audit_by_likelihood` on the recipe; None without one.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.share import audit_release
        >>> train, test = ddsdk.load_pair("digits")
        >>> coreset = ddsdk.distill(ddsdk.BASELINES["random"](ipc=1), train)
        >>> audit_release(coreset, train, test, groups=range(len(test)), networks=1).near_copies
        10
    """
    require_count("networks", networks)
    members, non_members = (side.to("cpu").with_preprocess(distilled.preprocess) for side in (inside, outside))
    trained = trained_networks(distilled, None, networks, as_generator(seed))
    nearest = dd.nearest_records(distilled, inside, outside)
    return ReleaseAudit(
        membership=roc(confidences(trained, members), confidences(trained, non_members)),
        distance=nearest.scores,
        near_copies=nearest.copies,
        smallest_distance=nearest.smallest,
        shadow=shadow,
        figures=use_metrics(trained, non_members, group_ids(groups, len(non_members))),
    )
