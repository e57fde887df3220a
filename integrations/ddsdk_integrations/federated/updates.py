"""Gradient as data: a client writes its weight update as a few images whose training moves the weights the same way."""

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
from ddsdk_integrations.federated.spans import PathMatching, WeightPath
from ddsdk_integrations.federated.task import LocalData, Task


@final
@dataclass(frozen=True, kw_only=True)
class Encoding(PathMatching):
    """Matching of a path of one round: an update becomes images with learned labels and a learned rate.

    Attributes:
        images: Images of the whole client.
        student_steps: Steps of the training that must reproduce the update: 1 matches a gradient, as Goetz and Tewari
            do; more are FedSynth's.
        start: Start of the images, a key of `ddsdk.synthetic.STARTS`: noise discloses nothing of the client's images.
        codec: Codec of the images. Bytes are too coarse for a gradient.
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
    encoding: Encoding,
    rng: torch.Generator,
    *,
    round_number: int,
) -> RecordDict:
    """Train on the client's images, and return the records of a set that moves `network` to the same place.

    min_S ||w_N(S) - w*||^2 / ||w_0 - w*||^2, with w* the weights after the client's own training and w_N those after
    N steps on S: the objective of trajectory matching, on a trajectory of one round.
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
    *_, last = run
    return pack(
        run.distilled(),
        # Unlike a recipe, which sees the classes of the client, an update is of all classes.
        replace(data, classes=tuple(range(data.task.num_classes))),
        Packing(codec=encoding.codec, soft=True),
        round_number=round_number,
        seconds=time.monotonic() - began,
        gap=last.loss,
    )


def recovered_update(network: Network, one: Contribution, task: Task, student_steps: int) -> Tensor:
    """Return the move, (P,), of the weights of `network` by so many steps on a set that `encoded_update` made."""
    moved = copy.deepcopy(network)
    moved.train()
    rate = one.rate[0] if one.rate else 0.0
    optimizer = torch.optim.SGD(moved.parameters(), lr=rate)
    batch = dd.Batch(task.preprocess(one.images), one.labels)
    for _ in range(student_steps):
        gradient_step(moved, optimizer, batch)
    return weight_vector(moved) - weight_vector(network)


def robust_mean(updates: Sequence[Tensor], *, trim: float, cap: float) -> tuple[Tensor, float]:
    """Return a mean of updates, (P,), and the distance by which one client could have moved it, the others as they are.

    All clients count the same, whatever sizes they claim. With `trim`, of each coordinate as large a share of the
    highest and of the lowest values is left out, at least one of each. Otherwise updates longer than `cap` times the
    median length are shortened to that.
    """
    stack, n = torch.stack(list(updates)), len(updates)
    if n == 1:
        return stack[0], float("inf")
    if trim and n > 2:
        out = min(max(1, int(trim * n)), (n - 1) // 2)
        mean = stack.sort(0).values[out : n - out].mean(0)
        return mean, max(_trimmed_reach(stack, i, out) for i in range(n))
    lengths = stack.norm(dim=1)
    shortened = stack * (cap * lengths.median() / lengths.clamp_min(1e-12)).clamp_max(1)[:, None]
    return shortened.mean(0), max(_capped_reach(lengths, i, cap) for i in range(n))


def _trimmed_reach(stack: Tensor, i: int, out: int) -> float:
    """Return the distance of the lowest and the highest trimmed mean that client i can reach."""
    others = torch.cat([stack[:i], stack[i + 1 :]]).sort(0).values
    n = len(stack)
    return float((others[n - 1 - out] - others[out - 1]).norm() / (n - 2 * out))


def _capped_reach(lengths: Tensor, i: int, cap: float) -> float:
    """Return the reach of client i: by its own update, and through the median by the others' lengths."""
    others = torch.cat([lengths[:i], lengths[i + 1 :]])
    low, high = (
        cap * float(torch.cat([others, others.new_tensor([length])]).median()) for length in (0.0, float("inf"))
    )
    shortened = (others.clamp_max(high) - others.clamp_max(low)).sum()
    return float(shortened + 2 * high) / len(lengths)


def _start(data: LocalData, encoding: Encoding, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return images of the client's classes, in proportion to its images, and their ids in the task."""
    sizes = torch.tensor(data.real.class_sizes, dtype=torch.float64)
    # The n-th image goes to the class that is furthest behind its share.
    given = torch.zeros_like(sizes)
    for n in range(encoding.images):
        given[int(((n + 1) * sizes / sizes.sum() - given).argmax())] += 1
    most = int(given.max())
    starts = STARTS[encoding.start](data.real, min(most, *data.real.class_sizes), derive(rng, "start"))
    per = len(starts) // len(sizes)
    local = torch.cat([torch.full((int(n),), c) for c, n in enumerate(given)])
    rows = torch.cat([c * per + torch.arange(int(n)) % per for c, n in enumerate(given)])
    return starts[rows], data.ids(local)
