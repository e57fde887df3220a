"""Linear probes on the features of a frozen backbone: their protocol, their statistics and their fit."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ddsdk.data import Preprocess, RealData
from ddsdk.foundation import generator, note, require_positive
from ddsdk.networks import Backbone
from ddsdk.training.micro import MICRO_BATCH
from ddsdk.training.probe import Probe
from ddsdk.training.protocol import TrainingProtocol

_ITERATIONS = 200
_STATISTICS_IMAGES = 1000
_DIGITS = 4
"""Significant digits of the stored statistics: more would add bytes to the file without a use."""
_LEAST_SCALE = 0.01
"""Least standard deviation of a feature, relative to the mean over all features; a dead feature has none."""
_PIECE = 256


def linear_probe(features: Tensor, labels: Tensor, *, decay: float = 1e-3) -> nn.Linear:
    """Return the linear head that minimises cross-entropy + decay ||W||^2 / 2 on features.

    The problem is convex, so the result has no randomness.

    Args:
        features: Features of the images, (M, F).
        labels: Labels as rows of probabilities, (M, K).
        decay: Weight decay, > 0; without it the loss may have no minimum.

    Examples:
        >>> import torch
        >>> from ddsdk.training import linear_probe
        >>> linear_probe(torch.eye(3), torch.eye(3))(torch.eye(3)).argmax(1).tolist()
        [0, 1, 2]
    """
    require_positive("decay", decay)
    head = nn.Linear(features.shape[1], labels.shape[1]).to(features)
    for p in head.parameters():
        nn.init.zeros_(p)
    solver = torch.optim.LBFGS(head.parameters(), max_iter=_ITERATIONS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        solver.zero_grad()
        value: Tensor = cross_entropy(head(features), labels) + decay * head.weight.square().sum() / 2
        value.backward()  # type: ignore[no-untyped-call]
        return value

    solver.step(loss)  # type: ignore[no-untyped-call]
    head.requires_grad_(False)
    return head


def probe_protocol(backbone: Backbone, real: RealData, *, decay: float = 1e-3) -> TrainingProtocol:
    """Return the protocol of a linear probe on a backbone, with the statistics of its features on real data.

    The statistics are those of at most 1000 fixed random training images. They are computed once for the same data.

    Args:
        backbone: Frozen backbone whose features are classified.
        real: Real training data, in any value space.
        decay: Weight decay of the probe, > 0.

    Examples:
        >>> import ddsdk
        >>> from torch import nn
        >>> from ddsdk.networks import Backbone
        >>> from ddsdk.training import probe_protocol
        >>> backbone = Backbone(nn.Conv2d(1, 4, 3), mean=[0.5], std=[0.5], name="convolution")
        >>> probe_protocol(backbone, ddsdk.load("digits")).network_label
        'probe on convolution'
    """
    key = ("probe statistics", backbone.sha256, backbone.mean, backbone.std, backbone.side)
    shift, scale = real.computed_once(key, partial(_statistics, backbone, real))
    facts = {"sha256": backbone.sha256, "features": backbone.features, "shift": shift, "scale": scale, "decay": decay}
    probe = Probe(**facts, mean=backbone.mean, std=backbone.std, side=backbone.side)  # type: ignore[arg-type]
    return TrainingProtocol(name="probe", learner="probe", network=backbone.name, networks=1, probe=probe)


def protocol_on(
    backbone: Backbone, protocol: TrainingProtocol, train: RealData | None
) -> tuple[TrainingProtocol, Backbone]:
    """Return a protocol that probes with a given backbone, and the backbone with the protocol's preprocessing.

    The weights decide: a backbone with the weights of the protocol's probe gets the preprocessing that the protocol
    states. Any other backbone is a transfer, whose protocol has the names of both.

    Args:
        backbone: Frozen backbone that the user gives.
        protocol: Protocol of a set; one that trains networks is replaced by a probe.
        train: Real training data that standardise the features of another backbone; None for the same one.

    Raises:
        TypeError: If `train` is missing for a transfer.

    Examples:
        >>> import ddsdk
        >>> from torch import nn
        >>> from ddsdk.networks import Backbone
        >>> from ddsdk.training import probe_protocol, protocol_on
        >>> one, two = (Backbone(nn.Conv2d(1, n, 3), mean=[0.5], std=[0.5], name=f"{n} filters") for n in (4, 8))
        >>> real = ddsdk.load("digits")
        >>> protocol_on(two, probe_protocol(one, real), real)[0].name
        'probe, transfer from 4 filters'
    """
    probe = protocol.probe
    if probe is not None and probe.sha256 == backbone.sha256:
        if not probe.fits(backbone):
            note(f"{backbone.name} gets the preprocessing of the protocol: side {probe.side}, mean {probe.mean}")
            backbone = backbone.with_preprocessing(mean=probe.mean, std=probe.std, side=probe.side)
        return protocol, backbone
    if train is None:
        raise TypeError(
            f"train must be real training data, which standardise the features of {backbone.name}, got None"
        )
    if probe is None:
        return probe_protocol(backbone, train), backbone
    other = probe_protocol(backbone, train, decay=probe.decay)
    name = f"{other.name}, transfer from {protocol.network}"
    return dataclasses.replace(other, name=name, labels=protocol.labels), backbone


def require_backbone(protocol: TrainingProtocol, backbone: Backbone | None) -> None:
    """Check that the backbone of a protocol `probe` is given, and no other one.

    Raises:
        ValueError: If it is missing or has other weights or another preprocessing; the message has name and hash.
    """
    probe = protocol.probe
    if probe is None or (backbone is not None and probe.fits(backbone)):
        return
    weights = f"{protocol.network} (weights sha256 {probe.sha256})"
    way_out = "pass backbone=..., or --backbone SPEC; another backbone there is a transfer"
    raise ValueError(f"backbone must be {weights}, on whose features the set is probed, got {backbone}: {way_out}")


def fitted_probe(
    protocol: TrainingProtocol, backbone: Backbone, preprocess: Preprocess, x: Tensor, rows: Tensor
) -> Callable[[Tensor], Tensor]:
    """Return the function from images to logits, (B, K), of the linear probe of a set.

    Args:
        protocol: Protocol with a probe.
        backbone: Backbone of the probe.
        preprocess: Preprocessing of the images, which is inverted.
        x: Images of the set, (M, C, H, W) in the value space.
        rows: Label rows of the set, (M, K), probabilities.
    """
    require_backbone(protocol, backbone)
    probe = protocol.probe
    assert probe is not None  # a protocol without one is not fitted

    def standardised(images: Tensor) -> Tensor:
        # Double precision, so that the minimum does not depend on the number of threads.
        features = embedded(backbone, preprocess.inverse(images)).double()
        return (features - features.new_tensor(probe.shift)) / features.new_tensor(probe.scale)

    head = linear_probe(standardised(x), rows.double(), decay=probe.decay)
    return lambda images: head(standardised(images))


@torch.no_grad()
def embedded(backbone: Backbone, unit_images: Tensor) -> Tensor:
    """Return the features, (N, F), of images (N, C, H, W) of the unit range, in micro-batches and without graph."""
    size = MICRO_BATCH.get(unit_images.device.type) or _PIECE
    return torch.cat([backbone.embed(part) for part in torch.split(unit_images, size)])


def _statistics(backbone: Backbone, real: RealData) -> tuple[tuple[float, ...], tuple[float, ...]]:
    chosen = torch.randperm(len(real), generator=generator("probe statistics"))[:_STATISTICS_IMAGES]
    parts = [embedded(backbone, real.unit_images(part)).double().cpu() for part in torch.split(chosen, _PIECE)]
    features = torch.cat(parts)
    scale = features.std(0, correction=0)
    # A backbone of constant features has no scale at all.
    least = _LEAST_SCALE * float(scale.mean()) or 1.0
    return _rounded(features.mean(0)), _rounded(scale.clamp(min=least))


def _rounded(values: Tensor) -> tuple[float, ...]:
    return tuple(float(f"{value:.{_DIGITS}g}") for value in values.tolist())
