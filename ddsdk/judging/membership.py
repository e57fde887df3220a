"""Scores by which an attacker tells members from others, by networks that train on a set, or by its images; copies."""

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
from ddsdk.data import Batch, RealData
from ddsdk.foundation import derive, require, require_count
from ddsdk.networks import network_factory
from ddsdk.synthetic import read_labels
from ddsdk.training import Evaluation, train

Distiller = Callable[[RealData, torch.Generator], Distilled]
"""Function from records and a generator to the set, with everything that is done with real data."""

_PIECE = 512


def trained_networks(
    distilled: Distilled, evaluation: Evaluation | None, networks: int, rng: torch.Generator
) -> list[nn.Module]:
    """Return networks that are trained on a set, on the device of its images, with frozen weights, in eval mode.

    Without a protocol they train under that of the set; for a set that is made for a kernel machine, under the quick
    protocol on the class of each image.
    """
    require_count("networks", networks)
    own = Evaluation.from_dict(distilled.evaluation) if evaluation is None else evaluation
    if own.learner == "kernel":
        own = dataclasses.replace(Evaluation.quick(""), labels="hard")
    own, pace = own.with_learned(distilled.learned_lr, distilled.learned_momentum)
    batch = Batch(distilled.images, read_labels(distilled.labels, own.labels))
    _, c, h, w = distilled.images.shape
    make = network_factory(own.network, (c, h, w), distilled.num_classes, **own.network_options)
    found: list[nn.Module] = []
    for i in range(networks):
        network = make(derive(rng, i, "init")).to(distilled.images.device)
        for _ in train(network, batch, own, derive(rng, i, "train"), pace):
            pass
        found.append(network.eval().requires_grad_(False))
    return found


def known_confidences(
    distilled: Distilled, records: RealData, evaluation: Evaluation | None, networks: int, rng: torch.Generator
) -> Tensor:
    """Return `confidences` of `trained_networks` for records in any value space, on the CPU."""
    found = trained_networks(distilled, evaluation, networks, rng)
    same = records.to(distilled.images.device).with_preprocess(distilled.preprocess)
    return confidences(found, same).cpu()


@torch.no_grad()
def confidences(networks: Sequence[nn.Module], records: RealData) -> Tensor:
    """Return log(p / (1 - p)) of the true class of each record, (N,), the mean over networks.

    Args:
        networks: Functions from (B, C, H, W) to logits (B, K).
        records: Records in the value space of the networks.

    References:
        Carlini et al., "Membership Inference Attacks From First Principles", S&P 2022.
    """
    x = records.batch(torch.arange(len(records))).x
    label = records.labels[:, None]
    found = []
    for network in networks:
        logs = log_softmax(torch.cat([network(part) for part in torch.split(x, _PIECE)]).double(), 1)
        own = logs.gather(1, label)[:, 0]
        others = logs.scatter(1, label, -torch.inf).logsumexp(1)
        found.append(own - others)
    return torch.stack(found).mean(0)


@torch.no_grad()
def nearest_distances(images: Tensor, records: Tensor) -> Tensor:
    """Return the distance of each record to the nearest synthetic image, (N,): root mean square over pixels.

    Args:
        images: Synthetic images (M, C, H, W), in the unit range.
        records: Records (N, C, H, W), in the unit range.
    """
    flat = images.flatten(1)
    parts = [torch.cdist(part.flatten(1), flat).min(1).values for part in torch.split(records, _PIECE)]
    found: Tensor = torch.cat(parts) / flat.shape[1] ** 0.5
    return found


class Roc(NamedTuple):
    """Success of a score that tells members from others.

    Attributes:
        auc: Area under the curve; 0.5 is chance.
        at_1: True positives at 1 % false positives.
        at_01: True positives at 0.1 % false positives.
    """

    auc: float
    at_1: float
    at_01: float


def roc(members: Tensor, others: Tensor) -> Roc:
    """Return the figures of the curve for scores of members (A,) and of others (B,), higher for members."""
    require(len(members) > 0 and len(others) > 0, "members and others", "hold scores", (len(members), len(others)))
    truth = [1] * len(members) + [0] * len(others)
    scores = torch.cat([members, others]).double().numpy()
    false, true, _ = roc_curve(truth, scores, drop_intermediate=False)
    at_1, at_01 = (float(true[false <= rate].max()) for rate in (0.01, 0.001))
    return Roc(float(roc_auc_score(truth, scores)), at_1, at_01)


@final
@dataclass(frozen=True, kw_only=True)
class Nearest:
    """Distances of a set to its records, beside those to records that were not distilled.

    Attributes:
        copies: Images of the set that lie nearer to a record than `threshold`.
        threshold: Distance of the nearest hundredth of the records that were not distilled to those that were.
        smallest: Least distance of an image of the set to a record.
        scores: Success of the distance to the nearest image in telling records from others.
    """

    copies: int
    threshold: float
    smallest: float
    scores: Roc


def nearest_records(distilled: Distilled, records: RealData, others: RealData) -> Nearest:
    """Compare the images of a set with the records that it was made of, and with records of the same kind.

    Only this catches copies: the confidences of networks that train on a set of copies may not show them.

    Args:
        distilled: The set.
        records: Records that it was made of.
        others: Held-out records.
    """
    images, inside, outside = distilled.unit_images().cpu(), unit_images(records), unit_images(others)
    usual = nearest_distances(inside, outside)
    threshold = float(usual.quantile(0.01))
    near = nearest_distances(inside, images)
    return Nearest(
        copies=int((near < threshold).sum()),
        threshold=threshold,
        smallest=float(near.min()),
        scores=roc(-nearest_distances(images, inside), -nearest_distances(images, outside)),
    )


def joined(first: RealData, second: RealData, index: Tensor) -> RealData:
    """Return the records of the first and those at `index` of the second, in the value space of the first."""
    require(second.class_names == first.class_names, "canaries", "have the classes of the records", second.class_names)
    index = index.to(second.device)
    if first.images.dtype == second.images.dtype:
        mine, theirs = first.images, second.images[index]
    else:
        mine, theirs = unit_images(first), unit_images(second)[index.cpu()]
    labels = torch.cat([part.to(mine.device) for part in (first.labels, second.labels[index])])
    return first.with_items(torch.cat([mine, theirs.to(mine.device)]), labels, first.preprocess.to(mine.device))


def unit_images(records: RealData) -> Tensor:
    """Return all records in the unit range, (N, C, H, W), on the CPU."""
    images = records.images.cpu()
    return images if images.is_floating_point() else images.float() / 255
