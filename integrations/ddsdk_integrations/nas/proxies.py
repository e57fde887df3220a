"""Proxies that train a candidate: on a distilled set, on chosen images, or for a while on all of the data."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, final

import torch
from torch import Tensor

import ddsdk as dd
from ddsdk.foundation import Checked, PositiveInt, derive, require, root
from ddsdk.networks import calibrate_batch_norm_
from ddsdk.students import MakeStudent
from ddsdk.synthetic import read_labels
from ddsdk.training import Pace, accuracy, train, train_steps


class Proxy(Protocol):
    """Function that gives a candidate a score without training it in full; other processes must unpickle it."""

    @property
    def seconds(self) -> float:
        """Seconds before the first candidate, such as those of a distillation."""
        ...

    @property
    def identity(self) -> Mapping[str, Any]:
        """JSON values of which a score depends beside candidate and generator."""
        ...

    def __call__(self, make: MakeStudent, rng: torch.Generator) -> Mapping[str, float]:
        """Return ``"score"``, larger for a better candidate, and other measured values."""
        ...


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class TrainedOn(Checked):
    """Train a candidate on a set, and score it by its accuracy on real images that were held out.

    Attributes:
        batch: Images and labels of the training.
        evaluation: Protocol of the training; networks and their options do not count.
        held_out: Real images that are in neither the set nor the test.
        steps: Steps of the optimizer; None trains for the epochs of `evaluation`.
        pace: Rate and momentum of each step, where they were learned with the set; for whole epochs only.
        statistics: Real images, (B, C, H, W), on which batch norm measures its statistics after the training; None
            keeps those of the set, which for a small one are poor.
        test: Real images whose accuracy is measured, too, as ``"test"``, and is no part of the score; None for none.
        seconds: CPU seconds that the set took.
    """

    batch: dd.Batch
    evaluation: dd.Evaluation
    held_out: dd.RealData
    steps: PositiveInt | None = None
    pace: Pace = Pace()  # noqa: RUF009 - a tuple, which nobody can change
    statistics: Tensor | None = None
    test: dd.RealData | None = None
    seconds: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        x, y = self.batch
        shape = self.held_out.image_shape
        require(tuple(x.shape[1:]) == shape, "batch", f"have images of shape {shape}", tuple(x.shape[1:]))
        k = self.held_out.num_classes
        require(tuple(y.shape) == (len(x), k), "batch", f"have {len(x)} rows of {k} labels", tuple(y.shape))
        require(self.evaluation.learner == "network", "learner", "be 'network'", self.evaluation.learner)
        paced = self.steps is not None and any(self.pace)
        require(not paced, "steps", "be None where each step has a rate of its own", self.steps)
        if self.statistics is not None:
            require(len(self.statistics) >= 2, "statistics", "hold at least 2 images", len(self.statistics))

    @property
    def identity(self) -> Mapping[str, Any]:
        """Hashes of the data, and the protocol."""
        told = dataclasses.replace(self.evaluation, network="convnet", network_options={}, networks=1)
        return {
            "kind": "trained",
            "set": tensor_hash(*self.batch),
            "evaluation": told.to_dict() | {"protocol": ""},
            "steps": self.steps,
            "pace": [list(values) for values in self.pace],
            "statistics": None if self.statistics is None else tensor_hash(self.statistics),
            "held_out": _told(self.held_out),
            "test": None if self.test is None else _told(self.test),
        }

    def __call__(self, make: MakeStudent, rng: torch.Generator) -> Mapping[str, float]:
        """Return the accuracy on held-out images, and on the test where it is given."""
        network = make(derive(rng, "init")).to(self.batch.x.device)
        key, shown = derive(rng, "train"), read_labels(self.batch.y, self.evaluation.labels)
        batch = dd.Batch(self.batch.x, shown)
        if self.steps is None:
            for _ in train(network, batch, self.evaluation, key, self.pace):
                pass
        else:
            train_steps(network, batch, self.evaluation, self.steps, key)
        if self.statistics is not None:
            calibrate_batch_norm_(network, self.statistics)
        found = {"score": _accuracy(network, self.held_out)}
        return found if self.test is None else {**found, "test": _accuracy(network, self.test)}


def _accuracy(network: torch.nn.Module, data: dd.RealData) -> float:
    return accuracy(network, data.batch(torch.arange(len(data))).x, data.labels)


def _told(data: dd.RealData) -> list[str]:
    """Return what names images and the space in which they are seen."""
    return [data.fingerprint, tensor_hash(data.batch(torch.arange(1)).x)]


def tensor_hash(*tensors: Tensor) -> str:
    """Return the SHA-256 of shapes and values, in hex."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def distilled_proxy(
    distilled: dd.Distilled,
    held_out: dd.RealData,
    *,
    evaluation: dd.Evaluation | None = None,
    steps: int | None = None,
    statistics: dd.RealData | None = None,
    seconds: float | None = None,
    seed: int | torch.Generator = 0,
) -> TrainedOn:
    """Return the proxy of any artefact: distilled or chosen images, with hard, soft or learned labels.

    Args:
        distilled: Set. Learned rates hold where `evaluation` is its own.
        held_out: Real images for the score; seen in the space of the set.
        evaluation: Protocol of the candidates' training; None takes that of the set. Ranks are best where candidates
            will train so in the end.
        steps: Steps of the optimizer, see `TrainedOn`.
        statistics: Real images of which 16 of each class are drawn for batch norm; None for none.
        seconds: CPU seconds that the set took; None takes those of its provenance, which are of the wall clock.
        seed: Root of the draw of these images: an integer, or a generator, which is not advanced.
    """
    own = dd.Evaluation.from_dict(distilled.evaluation)
    pace = Pace()
    if evaluation is None:
        evaluation, pace = own.with_learned(distilled.learned_lr, distilled.learned_momentum)
    seen = held_out.with_preprocess(distilled.preprocess)
    images = None
    if statistics is not None:
        real = statistics.with_preprocess(distilled.preprocess)
        drawn = [real.of_class(c, 16, derive(root(seed), "statistics", c)).x for c in range(real.num_classes)]
        images = torch.cat(drawn)
    return TrainedOn(
        batch=dd.Batch(distilled.images.to(seen.device), distilled.labels.to(seen.device)),
        evaluation=evaluation,
        held_out=seen,
        steps=steps,
        pace=pace if steps is None else Pace(),
        statistics=images,
        seconds=float(distilled.provenance.get("seconds", 0.0)) if seconds is None else seconds,
    )


def early_stopping(
    train: dd.RealData,
    held_out: dd.RealData,
    *,
    evaluation: dd.Evaluation,
    steps: int | None = None,
    test: dd.RealData | None = None,
) -> TrainedOn:
    """Return the proxy that trains on all of the data for a while; without `steps` it is the truth.

    Args:
        train: All of the training images.
        held_out: Real images for the score.
        evaluation: Protocol of the candidates' training; its schedule is squeezed into `steps`.
        steps: Steps of the optimizer; None for all epochs.
        test: Test images, see `TrainedOn`.
    """
    batch = train.batch(torch.arange(len(train)))
    return TrainedOn(batch=batch, evaluation=evaluation, held_out=held_out, steps=steps, test=test)
