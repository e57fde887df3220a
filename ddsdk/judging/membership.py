"""Membership-inference scores of records, from networks trained on a set or from its images, and copied records."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from sklearn.metrics import roc_auc_score, roc_curve
from torch import Tensor, nn
from torch.nn.functional import log_softmax

from ddsdk.artefact import Distilled
from ddsdk.data import RealData
from ddsdk.foundation import require, require_count
from ddsdk.judging.judge import trained_network
from ddsdk.judging.stored import stored_protocol
from ddsdk.judging.training_set import TrainingSet
from ddsdk.training import TrainingProtocol

DistillFunction = Callable[[RealData, torch.Generator], Distilled]
"""Function from records and a generator to the distilled set, including all selections and starts from real data."""

_MICRO_BATCH = 512


def trained_networks(
    distilled: Distilled, protocol: TrainingProtocol | None, networks: int, rng: torch.Generator
) -> list[nn.Module]:
    """Return networks that are trained on a set, on the device of its images, with frozen weights, in eval mode.

    Args:
        distilled: Distilled set to train on.
        protocol: Protocol of training the networks. None for the protocol of the set. In place of the protocol of a
            kernel machine, the quick protocol is used, with hard labels.
        networks: Number of networks, at least 1.
        rng: Root of initial weights and training; it is not advanced.

    Examples:
        >>> import ddsdk
        >>> from ddsdk.judging import trained_networks
        >>> distilled = ddsdk.distill(ddsdk.BASELINES["means"](ipc=1), ddsdk.load("digits"))
        >>> protocol = ddsdk.TrainingProtocol(name="short", epochs=1, networks=1).changed(options={"width": 4})
        >>> len(trained_networks(distilled, protocol, 2, ddsdk.generator(0)))
        2
    """
    require_count("networks", networks)
    if (stored_protocol(distilled) if protocol is None else protocol).learner == "kernel":
        protocol = dataclasses.replace(TrainingProtocol.quick(""), labels="hard")
    training_set = TrainingSet.of(distilled, protocol)
    return [trained_network(training_set, i, rng=rng).eval().requires_grad_(False) for i in range(networks)]


def record_confidences(
    distilled: Distilled, records: RealData, protocol: TrainingProtocol | None, networks: int, rng: torch.Generator
) -> Tensor:
    """Return `confidences` (N,) of `trained_networks` for records in any value space, on the CPU.

    Examples:
        >>> import ddsdk
        >>> from ddsdk.judging import record_confidences
        >>> real = ddsdk.load("digits")
        >>> distilled = ddsdk.distill(ddsdk.BASELINES["means"](ipc=1), real)
        >>> protocol = ddsdk.TrainingProtocol(name="short", epochs=1, networks=1).changed(options={"width": 4})
        >>> tuple(record_confidences(distilled, real, protocol, 1, ddsdk.generator(0)).shape)
        (1347,)
    """
    trained = trained_networks(distilled, protocol, networks, rng)
    records = records.to(distilled.images.device).with_preprocess(distilled.preprocess)
    return confidences(trained, records).cpu()


@torch.no_grad()
def confidences(networks: Sequence[nn.Module], records: RealData) -> Tensor:
    """Return the confidence log(p / (1 - p)) of each record in its true class, (N,), averaged over networks.

    Args:
        networks: Networks from images (B, C, H, W) to logits (B, K), at least one.
        records: Records in the value space of the networks.

    Examples:
        >>> import ddsdk
        >>> from ddsdk.judging import confidences
        >>> real = ddsdk.load("digits")
        >>> network = ddsdk.network_factory("convnet", real.image_shape, 10, width=4)(ddsdk.generator(0))
        >>> tuple(confidences([network], real).shape)
        (1347,)

    References:
        Carlini et al., "Membership Inference Attacks From First Principles", S&P 2022.
    """
    x = records.batch(torch.arange(len(records))).x
    label = records.labels[:, None]
    log_odds = []
    for network in networks:
        logs = log_softmax(torch.cat([network(part) for part in torch.split(x, _MICRO_BATCH)]).double(), 1)
        true_class = logs.gather(1, label)[:, 0]
        # log(1 - p) as the sum over the other classes: 1 - p itself rounds to 0 for confident networks.
        other_classes = logs.scatter(1, label, -torch.inf).logsumexp(1)
        log_odds.append(true_class - other_classes)
    return torch.stack(log_odds).mean(0)


@torch.no_grad()
def nearest_distances(images: Tensor, records: Tensor) -> Tensor:
    """Return the distance of each record to its nearest synthetic image, (N,), as root mean square over pixels.

    Args:
        images: Synthetic images (M, C, H, W) in the unit range.
        records: Records (N, C, H, W) in the unit range.

    Examples:
        >>> import torch
        >>> from ddsdk.judging import nearest_distances
        >>> images = torch.stack([torch.zeros(1, 8, 8), torch.ones(1, 8, 8)])
        >>> nearest_distances(images, torch.full((1, 1, 8, 8), 0.25)).tolist()
        [0.25]
    """
    flat = images.flatten(1)
    euclidean = [torch.cdist(part.flatten(1), flat).min(1).values for part in torch.split(records, _MICRO_BATCH)]
    distances: Tensor = torch.cat(euclidean) / flat.shape[1] ** 0.5
    return distances


class Roc(NamedTuple):
    """Receiver operating characteristic of a membership-inference score.

    Attributes:
        auc: Area under the curve, in 0..1; 0.5 is chance.
        at_1: True-positive rate at 1 % false positives, in 0..1.
        at_01: True-positive rate at 0.1 % false positives, in 0..1.
    """

    auc: float
    at_1: float
    at_01: float


def roc(members: Tensor, others: Tensor) -> Roc:
    """Return the receiver operating characteristic for scores of members and others.

    Args:
        members: Scores of members (A,), A >= 1, expected to be higher.
        others: Scores of other records (B,), B >= 1.

    Examples:
        >>> import torch
        >>> from ddsdk.judging import roc
        >>> roc(torch.tensor([2.0, 3.0]), torch.tensor([0.0, 1.0]))
        Roc(auc=1.0, at_1=1.0, at_01=1.0)
    """
    require(len(members) > 0 and len(others) > 0, "members and others", "hold scores", (len(members), len(others)))
    truth = [1] * len(members) + [0] * len(others)
    scores = torch.cat([members, others]).double().numpy()
    false, true, _ = roc_curve(truth, scores, drop_intermediate=False)
    at_1, at_01 = (float(true[false <= rate].max()) for rate in (0.01, 0.001))
    return Roc(float(roc_auc_score(truth, scores)), at_1, at_01)


@final
@dataclass(frozen=True, kw_only=True)
class Nearest:
    """Distances of synthetic images to the distilled records, compared with held-out records.

    Attributes:
        copies: Number of synthetic images that are nearer to a distilled record than `threshold`.
        threshold: First percentile of the distances of held-out records to their nearest distilled record.
        smallest: Smallest distance of a synthetic image to a distilled record, root mean square over pixels.
        scores: Success of membership inference by the distance to the nearest synthetic image.
    """

    copies: int
    threshold: float
    smallest: float
    scores: Roc


def nearest_records(distilled: Distilled, records: RealData, others: RealData) -> Nearest:
    """Search a distilled set for copies of the records that were distilled.

    Copies are found by their distance to the records. Attacks on networks that are trained on the set can miss them.

    Args:
        distilled: Distilled set to be audited.
        records: Records that were distilled.
        others: Held-out records of the same distribution.

    Returns:
        The number of copies, and the success of membership inference by distance.

    Examples:
        >>> import ddsdk
        >>> train, test = ddsdk.load_pair("digits")
        >>> distilled = ddsdk.distill(ddsdk.BASELINES["random"](ipc=1), train)
        >>> ddsdk.nearest_records(distilled, train, test).copies
        10
    """
    images, members, non_members = distilled.unit_images().cpu(), unit_images(records), unit_images(others)
    threshold = float(nearest_distances(members, non_members).quantile(0.01))
    distances = nearest_distances(members, images)
    return Nearest(
        copies=int((distances < threshold).sum()),
        threshold=threshold,
        smallest=float(distances.min()),
        scores=roc(-nearest_distances(images, members), -nearest_distances(images, non_members)),
    )


def with_canaries(first: RealData, second: RealData, index: Tensor) -> RealData:
    """Return the records of `first` together with those at `index` of `second`, in the value space of `first`.

    Args:
        first: Records that are all kept.
        second: Records of the same classes, such as canaries.
        index: Positions in `second`, int64.

    Examples:
        >>> import ddsdk, torch
        >>> from ddsdk.judging import with_canaries
        >>> train, test = ddsdk.load_pair("digits")
        >>> len(with_canaries(train, test, torch.arange(5))) - len(train)
        5
    """
    require(second.class_names == first.class_names, "canaries", "have the classes of the records", second.class_names)
    index = index.to(second.device)
    if first.images.dtype == second.images.dtype:
        images, added = first.images, second.images[index]
    else:
        images, added = unit_images(first), unit_images(second)[index.cpu()]
    device = images.device
    labels = torch.cat([part.to(device) for part in (first.labels, second.labels[index])])
    return first.with_items(torch.cat([images, added.to(device)]), labels, first.preprocess.to(device))


def unit_images(records: RealData) -> Tensor:
    """Return all images of the records in the unit range, (N, C, H, W), on the CPU.

    Examples:
        >>> import ddsdk
        >>> from ddsdk.judging import unit_images
        >>> tuple(unit_images(ddsdk.load("digits")).shape)
        (1347, 1, 8, 8)
    """
    images = records.images.cpu()
    return images if images.is_floating_point() else images.float() / 255
