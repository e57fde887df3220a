"""Real images with labels of the kind of a distilled set: what the labels of the set alone are worth."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor, nn

from ddsdk.artefact import Distilled
from ddsdk.judging import needs_centred_labels
from ddsdk.synthetic import nearest_distributions
from ddsdk.training import TrainingProtocol, probabilities

_LEAST, _MOST, _HALVINGS = -4.0, 5.0, 60
"""Range of the logarithm of the temperature, 0.018 to 148, and the number of halvings of it."""


def with_labels_of_kind(
    chosen: Distilled, like: Distilled, protocol: TrainingProtocol, network: nn.Module
) -> Distilled:
    """Return a set of real images with soft labels of a network, as soft as the labels of another set.

    The labels are softmax(log p / T) of the probabilities p of the network. The temperature T gives them the mean
    entropy of the labels of `like`. Targets of a regression are centred, which is less 1 / K.

    Args:
        chosen: Set of real images with hard labels, in the value space of the network.
        like: Distilled set whose labels are probabilities or scores.
        protocol: Protocol under which both sets are evaluated.
        network: Network from images (B, C, H, W) to logits (B, K), trained on the full training set.

    Examples:
        >>> import ddsdk
        >>> from ddsdk.experiments import with_labels_of_kind
        >>> real = ddsdk.load("digits")
        >>> chosen = ddsdk.distill(ddsdk.BASELINES["random"](ipc=1), real)
        >>> network = ddsdk.network_factory("convnet", real.image_shape, 10, width=4)(ddsdk.generator(0))
        >>> labelled = with_labels_of_kind(chosen, chosen, ddsdk.TrainingProtocol(), network)
        >>> tuple(labelled.labels.shape), labelled.label_space
        ((10, 10), 'probabilities')
    """
    rows = probabilities(network, chosen.images.to(next(network.parameters()).device)).cpu()
    wanted = mean_entropy(nearest_distributions(like.labels.cpu()))
    rows = tempered(rows, temperature_of_entropy(rows, wanted))
    space = "probabilities"
    if needs_centred_labels(like, protocol):
        rows, space = rows - 1 / rows.shape[1], "scores"
    return dataclasses.replace(chosen, labels=rows, label_space=space, classes=chosen.owner)


def mean_entropy(rows: Tensor) -> float:
    """Return the mean over rows (N, K) of the entropy -sum(p log p) in nats, in 0..log K."""
    return float(torch.special.entr(rows.double()).sum(1).mean())


def tempered(rows: Tensor, temperature: float) -> Tensor:
    """Return softmax(log p / T) of probability rows p, (N, K), for a temperature T > 0.

    Examples:
        >>> import torch
        >>> from ddsdk.experiments.same_labels import tempered
        >>> tempered(torch.tensor([[0.9, 0.1]]), 2.0).tolist()
        [[0.75, 0.25]]
    """
    tiny = torch.finfo(torch.float32).tiny
    return (rows.double().clamp_min(tiny).log() / temperature).softmax(1).float()


def temperature_of_entropy(rows: Tensor, wanted: float) -> float:
    """Return the temperature, 0.018 to 148, at which probability rows have a mean entropy; found by bisection.

    Args:
        rows: Probabilities of the images, (N, K), at temperature 1.
        wanted: Mean entropy in nats. Values out of reach give the nearest end of the range.
    """
    low, high = _LEAST, _MOST
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        # The entropy of each row grows with the temperature.
        if mean_entropy(tempered(rows, math.exp(middle))) < wanted:
            low = middle
        else:
            high = middle
    return math.exp((low + high) / 2)
