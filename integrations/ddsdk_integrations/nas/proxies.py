"""Proxies that train a candidate: on a distilled set, on a coreset, or briefly on all real data."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, final

import torch
from torch import Tensor

import ddsdk as dd
from ddsdk.foundation import CheckedDataclass, PositiveInt, as_generator, derive, require
from ddsdk.judging import TrainingSet, in_space_of, top1_accuracy
from ddsdk.networks import calibrate_batch_norm_
from ddsdk.students import MakeStudent
from ddsdk.synthetic import read_labels
from ddsdk.training import PerStepSchedule, train, train_steps


class Proxy(Protocol):
    """A function that scores a candidate without full training; it must be picklable for executors with processes."""

    @property
    def seconds(self) -> float:
        """Seconds before the first score, such as those of a distillation."""
        ...

    @property
    def identity(self) -> Mapping[str, Any]:
        """JSON values on which a score depends, besides candidate and generator."""
        ...

    def __call__(self, make: MakeStudent, rng: torch.Generator) -> Mapping[str, float]:
        """Return ``"score"``, larger for a better candidate, and other measured values by name."""
        ...


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingProxy(CheckedDataclass):
    """The proxy score by training: the accuracy on held-out real images of a candidate that trains on a given set.

    Attributes:
        batch: Images and labels of the training set.
        protocol: Protocol of the training; its network and network options are ignored.
        held_out: Real images for the score, neither in the training set nor in the test set.
        steps: Optimizer steps of the training; None trains for the epochs of `protocol`.
        per_step: Learning rate and momentum of each step, if they were learned with the set; only without `steps`.
        statistics: Real images, (B, C, H, W) with B >= 2, for the batch-norm statistics after the training; None keeps
            the statistics of the training set, which are poor for a small set.
        test: Real images whose accuracy is also measured, as ``"test"``, outside the score; None for none.
        seconds: CPU seconds that the set cost.

    Examples:
        >>> import ddsdk, torch
        >>> from ddsdk_integrations.nas import TrainingProxy
        >>> train, test = ddsdk.load_pair("digits")
        >>> protocol = ddsdk.TrainingProtocol(batch_size=10)
        >>> proxy = TrainingProxy(batch=train.batch(torch.arange(30)), protocol=protocol, held_out=test, steps=5)
        >>> list(proxy(ddsdk.network_factory("mlp", train.image_shape, 10, width=4), ddsdk.generator(0)))
        ['score']
    """

    batch: dd.Batch
    protocol: dd.TrainingProtocol
    held_out: dd.RealData
    steps: PositiveInt | None = None
    per_step: PerStepSchedule = PerStepSchedule()  # noqa: RUF009 - an immutable tuple
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
        require(self.protocol.learner == "network", "learner", "be 'network'", self.protocol.learner)
        cut_short = self.steps is not None and any(self.per_step)
        require(not cut_short, "steps", "be None with a learned rate or momentum of each step", self.steps)
        if self.statistics is not None:
            require(len(self.statistics) >= 2, "statistics", "hold at least 2 images", len(self.statistics))

    @property
    def identity(self) -> Mapping[str, Any]:
        """Hashes of the data, and the protocol without its network and name."""
        protocol = dataclasses.replace(self.protocol, network="convnet", network_options={}, networks=1)
        return {
            "kind": "trained",
            "set": tensor_hash(*self.batch),
            "protocol": protocol.to_dict() | {"protocol": ""},
            "steps": self.steps,
            "per_step": [list(values) for values in self.per_step],
            "statistics": None if self.statistics is None else tensor_hash(self.statistics),
            "held_out": _data_hashes(self.held_out),
            "test": None if self.test is None else _data_hashes(self.test),
        }

    def __call__(self, make: MakeStudent, rng: torch.Generator) -> Mapping[str, float]:
        """Return the accuracy on held-out images, and on test images if there are any."""
        network = make(derive(rng, "init")).to(self.batch.x.device)
        key, labels = derive(rng, "train"), read_labels(self.batch.y, self.protocol.labels)
        batch = dd.Batch(self.batch.x, labels)
        if self.steps is None:
            for _ in train(network, batch, self.protocol, key, self.per_step):
                pass
        else:
            train_steps(network, batch, self.protocol, self.steps, key)
        if self.statistics is not None:
            calibrate_batch_norm_(network, self.statistics)
        accuracies = {"score": top1_accuracy(network, self.held_out)}
        return accuracies if self.test is None else {**accuracies, "test": top1_accuracy(network, self.test)}


def _data_hashes(data: dd.RealData) -> list[str]:
    # The hash of an image in value space stands for the preprocessing.
    return [data.fingerprint, tensor_hash(data.batch(torch.arange(1)).x)]


def tensor_hash(*tensors: Tensor) -> str:
    """Return the SHA-256 of types, shapes and values of tensors, in hex."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def distilled_proxy(
    distilled: dd.Distilled,
    held_out: dd.RealData,
    *,
    protocol: dd.TrainingProtocol | None = None,
    steps: int | None = None,
    statistics: dd.RealData | None = None,
    seconds: float | None = None,
    seed: int | torch.Generator = 0,
) -> TrainingProxy:
    """Return the proxy of training on a distilled set or a coreset, with hard, soft or learned labels.

    Args:
        distilled: Training set of the candidates. Its learned learning rates apply if `protocol` is None.
        held_out: Real images for the score; they get the preprocessing of the set.
        protocol: Protocol of the candidates' training; None takes that of the set. The ranking is best with the
            protocol of the final training.
        steps: Optimizer steps of the training; None for all epochs, see `TrainingProxy`.
        statistics: Real images, from which 16 of each class are drawn for the batch-norm statistics; None keeps those
            of the set.
        seconds: CPU seconds that the set cost; None takes the wall-clock seconds of its provenance.
        seed: Root of the draw of `statistics`: an integer, or a generator, which is not advanced.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.nas import distilled_proxy, rank
        >>> train, test = ddsdk.load_pair("digits")
        >>> coreset = ddsdk.distill(ddsdk.BASELINES["random"](ipc=2), train)
        >>> factory = ddsdk.network_factory("mlp", train.image_shape, 10, width=4)
        >>> rank([("small", factory)], distilled_proxy(coreset, test, steps=5)).best()
        ['small']
    """
    preprocessed = in_space_of(distilled, held_out, "held-out")
    training_set = TrainingSet.of(distilled, device=preprocessed.device)
    if protocol is not None:
        training_set = TrainingSet(training_set.batch, protocol)
    images = None
    if statistics is not None:
        real, rng = statistics.with_preprocess(distilled.preprocess), as_generator(seed)
        of_classes = [real.of_class(c, 16, derive(rng, "statistics", c)).x for c in range(real.num_classes)]
        images = torch.cat(of_classes)
    return TrainingProxy(
        batch=training_set.batch,
        protocol=training_set.protocol,
        held_out=preprocessed,
        steps=steps,
        per_step=training_set.per_step if steps is None else PerStepSchedule(),
        statistics=images,
        seconds=float(distilled.provenance.get("seconds", 0.0)) if seconds is None else seconds,
    )


def early_stopping(
    train: dd.RealData,
    held_out: dd.RealData,
    *,
    protocol: dd.TrainingProtocol,
    steps: int | None = None,
    test: dd.RealData | None = None,
) -> TrainingProxy:
    """Return the proxy of early stopping: short training on all real data; without `steps`, full training.

    Full training gives the true ranking.

    Args:
        train: Real training images, all of them.
        held_out: Real images for the score.
        protocol: Protocol of the candidates' training; its learning-rate schedule is compressed into `steps`.
        steps: Optimizer steps of the training; None for all epochs.
        test: Real test images, see `TrainingProxy`; None for none.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.nas import early_stopping, rank
        >>> train, test = ddsdk.load_pair("digits")
        >>> proxy = early_stopping(train, test, protocol=ddsdk.TrainingProtocol(), steps=2)
        >>> rank([("small", ddsdk.network_factory("mlp", train.image_shape, 10, width=4))], proxy).best()
        ['small']
    """
    batch = train.batch(torch.arange(len(train)))
    return TrainingProxy(batch=batch, protocol=protocol, held_out=held_out, steps=steps, test=test)
