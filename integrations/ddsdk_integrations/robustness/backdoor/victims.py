"""Networks that train on a set, as anyone trains them who takes it."""

from __future__ import annotations

import dataclasses

import torch
from torch import nn

import ddsdk as dd
from ddsdk.data import Batch
from ddsdk.foundation import derive, require_count, root
from ddsdk.synthetic import read_labels
from ddsdk.training import train


def trained_on(
    distilled: dd.Distilled, *, networks: int, seed: int | torch.Generator = 0, evaluation: dd.Evaluation | None = None
) -> list[nn.Module]:
    """Return networks that were trained on a set, with frozen weights, in eval mode.

    Args:
        distilled: Set to train on; the device of its images is that of the training.
        networks: Number of networks.
        seed: Root of initial weights and training: an integer, or a generator, which is not advanced.
        evaluation: Protocol of the training. None takes that of the set; for a set that is made for a kernel machine,
            the quick protocol on the class of each image.

    Raises:
        ValueError: If `networks` is below 1, or the protocol does not fit the set.
    """
    rng = root(seed)
    require_count("networks", networks)
    own = dd.Evaluation.from_dict(distilled.evaluation) if evaluation is None else evaluation
    if own.learner == "kernel":
        own = dataclasses.replace(dd.Evaluation.quick(""), labels="hard")
    own, pace = own.with_learned(distilled.learned_lr, distilled.learned_momentum)
    batch = Batch(distilled.images, read_labels(distilled.labels, own.labels))
    _, c, h, w = distilled.images.shape
    make = dd.network_factory(own.network, (c, h, w), distilled.num_classes, **own.network_options)
    found: list[nn.Module] = []
    for i in range(networks):
        network = make(derive(rng, i, "init")).to(distilled.images.device)
        for _ in train(network, batch, own, derive(rng, i, "train"), pace):
            pass
        found.append(network.eval().requires_grad_(False))
    return found
