"""Weight updates as synthetic data: a few images on which training reproduces the update of a client."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, final

import torch
from flwr.app import RecordDict
from torch import Tensor

import ddsdk as dd
from ddsdk.artefact import Half, RowCodec
from ddsdk.foundation import PositiveFloat, PositiveInt, derive
from ddsdk.networks import Network
from ddsdk.running import Run
from ddsdk.synthetic import STARTS
from ddsdk.training import gradient_step, weight_vector
from ddsdk_integrations.federated.local import LocalTraining
from ddsdk_integrations.federated.payload import Contribution, Packing, pack
from ddsdk_integrations.federated.task import FederatedTask, LocalData
from ddsdk_integrations.federated.weight_path import PathMatching, WeightPath


@final
@dataclass(frozen=True, kw_only=True)
class UpdateEncoding(PathMatching):
    """Encoding of a client's weight update as synthetic images with soft labels and a learned learning rate.

    Attributes:
        images: Number of images of the whole client.
        student_steps: Number of steps on the images that reproduce the update: 1 matches one gradient, as in Goetz and
            Tewari; FedSynth uses more.
        steps: Number of optimization steps of the images.
        image_lr: Learning rate of the images (Adam).
        label_lr: Learning rate of the label logits (Adam).
        scale_lr: Learning rate of the learned learning rate (Adam).
        start: Initial images, a key of `ddsdk.synthetic.STARTS`; noise discloses nothing about the client's images.
        codec: Codec of the images; uint8 is too coarse for a gradient.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.federated import FederatedTask, Participant, UpdateEncoding
        >>> real = ddsdk.load("digits")
        >>> client = Participant(
        ...     task=FederatedTask.of(real, width=4, depth=2),
        ...     load=lambda context: (real.images, real.labels),
        ...     distil=ddsdk.DM(),
        ...     encoding=UpdateEncoding(images=10, student_steps=1),
        ... )
    """

    name: ClassVar[str] = "update"
    highest_rate: ClassVar[float] = 10.0
    images: PositiveInt = 20
    student_steps: PositiveInt = 3
    steps: PositiveInt = 100
    image_lr: PositiveFloat = 0.1
    label_lr: PositiveFloat = 0.1
    scale_lr: PositiveFloat = 0.05
    start: str = "noise"
    codec: RowCodec = field(default_factory=Half)


def encoded_update(
    network: Network,
    data: LocalData,
    training: LocalTraining,
    encoding: UpdateEncoding,
    rng: torch.Generator,
    *,
    round_number: int,
) -> RecordDict:
    """Return the records of a set that encodes the weight update of a client's local training.

    min_S ||w_N(S) - w*||^2 / ||w_0 - w*||^2, with w_0 the weights of `network`, w* the weights after local training and
    w_N those after N steps on S: trajectory matching on the trajectory of one round.

    Args:
        network: Network with the weights of the server.
        data: Local data of the client.
        training: Local training whose update is encoded.
        encoding: Method and size of the encoding.
        rng: Generator from which all random numbers derive.
        round_number: Number of the round.
    """
    began = time.monotonic()
    trained = copy.deepcopy(network)
    training.fit(trained, data.batch(), derive(rng, "fit"))
    images, classes = _start(data, encoding, rng)
    path = WeightPath(
        task=data.task,
        weights=(weight_vector(network), weight_vector(trained)),
        images=images,
        classes=classes,
        rate=training.lr,
    )
    run = Run(encoding, path, seed=rng)
    *_, last_step = run
    return pack(
        run.distilled(),
        # A recipe distils the classes of the client only, whereas an update has label rows over all classes.
        replace(data, classes=tuple(range(data.task.num_classes))),
        Packing(codec=encoding.codec, soft=True),
        round_number=round_number,
        seconds=time.monotonic() - began,
        gap=last_step.loss,
    )


def recovered_update(network: Network, one: Contribution, task: FederatedTask, student_steps: int) -> Tensor:
    """Return the weight update, (P,), that a set of `encoded_update` encodes.

    Args:
        network: Network with the weights of the server; it is not changed.
        one: Set of one client.
        task: Task of the federation.
        student_steps: Number of SGD steps on the set.
    """
    student = copy.deepcopy(network)
    student.train()
    rate = one.rate[0] if one.rate else 0.0
    optimizer = torch.optim.SGD(student.parameters(), lr=rate)
    batch = dd.Batch(task.preprocess(one.images), one.labels)
    for _ in range(student_steps):
        gradient_step(student, optimizer, batch)
    return weight_vector(student) - weight_vector(network)


def robust_mean(updates: Sequence[Tensor], *, trim: float, cap: float) -> tuple[Tensor, float]:
    """Return a robust mean of updates, (P,), and a bound on the distance by which one client could have moved it.

    All clients have the same weight, whatever sizes they claim. The bound is over all updates of one client, with those
    of the others fixed; it is infinite for a single update.

    Args:
        updates: Updates, (P,) each, at least one.
        trim: Share of the highest and of the lowest values of each coordinate that is left out, at least one of each;
            0 for norm clipping. It takes effect from three updates on.
        cap: Largest length of an update in median lengths, for norm clipping.
    """
    stack, n = torch.stack(list(updates)), len(updates)
    if n == 1:
        return stack[0], float("inf")
    if trim and n > 2:
        trimmed = min(max(1, int(trim * n)), (n - 1) // 2)
        mean = stack.sort(0).values[trimmed : n - trimmed].mean(0)
        return mean, max(_trimmed_reach(stack, i, trimmed) for i in range(n))
    lengths = stack.norm(dim=1)
    clipped = stack * (cap * lengths.median() / lengths.clamp_min(1e-12)).clamp_max(1)[:, None]
    return clipped.mean(0), max(_capped_reach(lengths, i, cap) for i in range(n))


def _trimmed_reach(stack: Tensor, i: int, trimmed: int) -> float:
    """Return the distance between the lowest and the highest trimmed mean that client i can reach."""
    # An extreme update of client i shifts the window of averaged order statistics by one: its ends are exchanged.
    others = torch.cat([stack[:i], stack[i + 1 :]]).sort(0).values
    n = len(stack)
    return float((others[n - 1 - trimmed] - others[trimmed - 1]).norm() / (n - 2 * trimmed))


def _capped_reach(lengths: Tensor, i: int, cap: float) -> float:
    """Return the reach of client i with norm clipping: by its own update, and by the median that clips the others."""
    others = torch.cat([lengths[:i], lengths[i + 1 :]])
    low, high = (
        cap * float(torch.cat([others, others.new_tensor([length])]).median()) for length in (0.0, float("inf"))
    )
    clipping = (others.clamp_max(high) - others.clamp_max(low)).sum()
    return float(clipping + 2 * high) / len(lengths)


def _start(data: LocalData, encoding: UpdateEncoding, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return initial images of the client's classes, in proportion to its class counts, and their ids in the task."""
    sizes = torch.tensor(data.real.class_sizes, dtype=torch.float64)
    # The n-th image goes to the class with the largest deficit to its proportional share.
    counts = torch.zeros_like(sizes)
    for n in range(encoding.images):
        counts[int(((n + 1) * sizes / sizes.sum() - counts).argmax())] += 1
    largest = int(counts.max())
    starts = STARTS[encoding.start](data.real, min(largest, *data.real.class_sizes), derive(rng, "start"))
    per_class = len(starts) // len(sizes)
    labels = torch.cat([torch.full((int(n),), c) for c, n in enumerate(counts)])
    rows = torch.cat([c * per_class + torch.arange(int(n)) % per_class for c, n in enumerate(counts)])
    return starts[rows], data.ids(labels)
