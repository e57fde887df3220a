"""Evaluation of a set: fresh networks are trained on it under a protocol, and tested once, after the last epoch.

Under the protocol of a kernel machine no network is trained; kernel ridge regression on the set is tested instead.
Under that of a probe, a linear classifier of the features of a frozen backbone is tested.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ddsdk.data import Batch, RealData
from ddsdk.foundation import derive, plain_torch, require, require_count, steps_in_plain_torch
from ddsdk.judging.early import stopped_early
from ddsdk.judging.training_set import TrainingSet
from ddsdk.networks import network_parameters
from ddsdk.synthetic import read_labels
from ddsdk.training import (
    InputAttack,
    OutputChange,
    Score,
    TrainingProtocol,
    evaluating_mode,
    fitted_probe,
    kernel_machine,
    micro_batch,
    probabilities,
    train,
)

_IMAGES_AT_ONCE = 1024


class EvaluationProgress(NamedTuple):
    """Progress of an evaluation.

    Attributes:
        done: Number of finished epochs, over all networks.
        total: Number of epochs of all networks together.
        score: Score of the set, in the last progress; None in all others.
        kept: Whether the score was read from the cache and not computed.
        name: Name of the set that is evaluated.
    """

    done: int
    total: int
    score: Score | None = None
    kept: bool = False
    name: str = ""


def last_score(steps: Iterable[EvaluationProgress]) -> Score:
    """Return the score of an evaluation: that of its last progress."""
    *_, last = steps
    assert last.score is not None
    return last.score


def evaluation_steps(
    training_set: TrainingSet, test: RealData, *, rng: torch.Generator, name: str = "set"
) -> Iterator[EvaluationProgress]:
    """Return an iterator over the epochs of an evaluation, whose last progress has the score.

    A set that does not fit `test`, and learned rates that do not fit the protocol, give a ValueError before the
    iterator is returned.

    Args:
        training_set: Set in the value space of `test`, with its protocol.
        test: Held-out real data, used once for each network, after its last epoch.
        rng: Root of all random numbers, from which each network derives its initial weights and its training; it is
            not advanced.
        name: Name of the set in tables.

    Examples:
        >>> import ddsdk
        >>> from ddsdk.judging import TrainingSet, evaluation_steps
        >>> train, test = ddsdk.load_pair("digits")
        >>> protocol = ddsdk.TrainingProtocol(name="short", epochs=2, networks=1).changed(options={"width": 4})
        >>> training_set = TrainingSet(train.mixed(20, ddsdk.generator(0)), protocol)
        >>> [(step.done, step.total) for step in evaluation_steps(training_set, test, rng=ddsdk.generator(1))]
        [(1, 2), (2, 2), (2, 2)]
    """
    training_set.check(test)
    return steps_in_plain_torch(_steps(training_set, test, rng, name))


@plain_torch()
def network_accuracy(training_set: TrainingSet, test: RealData, index: int, *, rng: torch.Generator) -> float:
    """Return the test accuracy of one network of `evaluation_steps`, equal bit for bit.

    Args:
        training_set: Set with its protocol, as in `evaluation_steps`.
        test: Held-out real data, as in `evaluation_steps`.
        index: Number of the network, counted from 0.
        rng: Root of all random numbers, as in `evaluation_steps`.

    Examples:
        >>> import ddsdk
        >>> from ddsdk.judging import TrainingSet, network_accuracy
        >>> train, test = ddsdk.load_pair("digits")
        >>> batch = train.mixed(20, ddsdk.generator(0))
        >>> protocol = ddsdk.TrainingProtocol(name="short", epochs=2, networks=1).changed(options={"width": 4})
        >>> accuracy = network_accuracy(TrainingSet(batch, protocol), test, 0, rng=ddsdk.generator(1))
        >>> accuracy == ddsdk.evaluate(batch, test, protocol, seed=ddsdk.generator(1)).mean
        True
    """
    training_set.check(test)
    if training_set.protocol.learner != "network":
        return _exact_accuracy(training_set, test)
    return top1_accuracy(trained_network(training_set, index, rng=rng), test)


@plain_torch()
def trained_network(
    training_set: TrainingSet, index: int, *, rng: torch.Generator, adversary: InputAttack | None = None
) -> nn.Module:
    """Return one network of `evaluation_steps` after its training, equal bit for bit unless there is an adversary.

    Args:
        training_set: Set with its protocol; not that of a kernel machine or a probe.
        index: Number of the network, counted from 0.
        rng: Root of all random numbers, as in `evaluation_steps`.
        adversary: Attack on the training images, see `ddsdk.training.train`. None for ordinary training.

    Examples:
        >>> import ddsdk
        >>> from ddsdk.judging import TrainingSet, trained_network
        >>> train, _ = ddsdk.load_pair("digits")
        >>> batch = train.mixed(20, ddsdk.generator(0))
        >>> protocol = ddsdk.TrainingProtocol(name="short", epochs=2, networks=1).changed(options={"width": 4})
        >>> network = trained_network(TrainingSet(batch, protocol), 0, rng=ddsdk.generator(1))
        >>> tuple(network(batch.x).shape)
        (20, 10)
    """
    require_count("index", index, least=0)
    learner = training_set.protocol.learner
    require(learner == "network", "learner", "be 'network'", learner)
    training_set.check()
    network, training = _network(training_set, index, rng, adversary)
    for _ in training:
        pass
    return network


def network_and_epochs(
    training_set: TrainingSet, index: int, *, rng: torch.Generator
) -> tuple[nn.Module, Iterator[int]]:
    """Return one network of `evaluation_steps`, and the iterator that trains it and yields the finished epochs.

    After the last epoch the network is that of `trained_network`.

    Args:
        training_set: Set with its protocol; not that of a kernel machine or a probe.
        index: Number of the network, counted from 0.
        rng: Root of all random numbers, as in `evaluation_steps`.

    Examples:
        >>> import ddsdk
        >>> from ddsdk.judging import TrainingSet, network_and_epochs
        >>> train, _ = ddsdk.load_pair("digits")
        >>> protocol = ddsdk.TrainingProtocol(name="short", epochs=2, networks=1).changed(options={"width": 4})
        >>> training_set = TrainingSet(train.mixed(20, ddsdk.generator(0)), protocol)
        >>> network, epochs = network_and_epochs(training_set, 0, rng=ddsdk.generator(1))
        >>> list(epochs)
        [1, 2]
    """
    require_count("index", index, least=0)
    learner = training_set.protocol.learner
    require(learner == "network", "learner", "be 'network'", learner)
    training_set.check()
    with plain_torch():
        network, training = _network(training_set, index, rng)
    return network, steps_in_plain_torch(training)


@plain_torch()
def top1_accuracy(network: nn.Module, real: RealData) -> float:
    """Return the top-1 accuracy, 0..1, of a network in evaluation mode on real data.

    The images are brought into the value space in pieces: the whole data set as floats would take several times the
    memory of the stored images.

    Args:
        network: Network from images (B, C, H, W) to logits (B, K), on the device of the data.
        real: Real data in the value space of the network.

    Examples:
        >>> import ddsdk
        >>> test = ddsdk.load("digits", split="test")
        >>> network = ddsdk.network_factory("convnet", test.image_shape, 10, width=4)(ddsdk.generator(0))
        >>> 0 <= ddsdk.judging.top1_accuracy(network, test) <= 1
        True
    """
    with evaluating_mode(network):
        size = min(_IMAGES_AT_ONCE, micro_batch(network, real.device, len(real)))
        return _accuracy(lambda x: probabilities(network, x), real, size)


def _network(
    training_set: TrainingSet, index: int, rng: torch.Generator, adversary: InputAttack | None = None
) -> tuple[nn.Module, Iterator[int]]:
    """Return a fresh network and the iterator over the epochs of its training."""
    (x, y), protocol = training_set.batch, training_set.protocol
    batch = Batch(x, protocol.label_scale * read_labels(y, protocol.labels))
    network_rng = derive(rng, "network", index)
    network = training_set.factory(derive(network_rng, "init")).to(x.device)
    if protocol.subtract_initial:
        network = OutputChange(network)
    epochs = train(network, batch, protocol, derive(network_rng, "train"), training_set.per_step, adversary)
    if protocol.early_stopping is not None and training_set.stopping is not None:
        accuracy = partial(top1_accuracy, real=training_set.stopping)
        epochs = stopped_early(network, epochs, protocol.early_stopping, accuracy)
    return network, epochs


def _steps(training_set: TrainingSet, test: RealData, rng: torch.Generator, name: str) -> Iterator[EvaluationProgress]:
    began, protocol = time.perf_counter(), training_set.protocol
    exact = protocol.learner != "network"
    accuracies = [_exact_accuracy(training_set, test)] if exact else []
    for i in range(0 if exact else protocol.networks):
        network, training = _network(training_set, i, rng)
        for epochs in training:
            yield EvaluationProgress(i * protocol.epochs + epochs, protocol.rounds, name=name)
        accuracies.append(top1_accuracy(network, test))
    yield _finished(training_set, accuracies, began, name)


def _exact_accuracy(training_set: TrainingSet, test: RealData) -> float:
    """Return the accuracy of a learner without random numbers: kernel ridge regression or a linear probe."""
    (x, y), protocol, backbone = training_set.batch, training_set.protocol, training_set.backbone
    if backbone is not None:
        # Cross-entropy needs probabilities, which label scores are not.
        scores = protocol.labels == "stored" and _label_kind(y) == "scores"
        rows = read_labels(y, "probabilities" if scores else protocol.labels)
        return _accuracy(fitted_probe(protocol, backbone, test.preprocess, x, rows), test, _IMAGES_AT_ONCE)
    machine = kernel_machine(protocol.network, **protocol.network_options)
    with torch.no_grad():
        predict = machine.fitted(x, read_labels(y, protocol.labels))
        return _accuracy(predict, test, _IMAGES_AT_ONCE)


def _accuracy(predict: Callable[[Tensor], Tensor], test: RealData, size: int) -> float:
    correct = 0
    for part in torch.split(torch.arange(len(test)), size):
        labels = test.labels[part.to(test.device)]
        correct += int((predict(test.batch(part).x).argmax(1) == labels).sum())
    return correct / len(test)


def _finished(training_set: TrainingSet, accuracies: list[float], began: float, name: str) -> EvaluationProgress:
    (x, y), protocol, seconds = training_set.batch, training_set.protocol, time.perf_counter() - began
    kind = _label_kind(y)
    unchanged = protocol.labels == "stored" or kind == "hard"
    score = Score(
        name=name,
        protocol=protocol.name,
        network=protocol.network_label,
        accuracies=tuple(accuracies),
        images=len(x),
        stored_floats=x.numel() + (len(y) if kind == "hard" else y.numel()),
        seconds=seconds,
        labels=kind if unchanged else f"{kind} as {protocol.labels}",
        loss={"network": protocol.loss, "kernel": "ridge", "probe": "probe"}[protocol.learner],
    )
    return EvaluationProgress(protocol.rounds, protocol.rounds, score, name=name)


def reduced_protocol(
    protocol: TrainingProtocol, *, networks: int, epochs: int | None = None, width: int | None = None
) -> TrainingProtocol:
    """Return a cheaper protocol, whose name lists the changes; that of a kernel or a probe is returned unchanged.

    With fewer epochs the last one is evaluated, even if the protocol stops early.

    Args:
        protocol: Protocol to be changed.
        networks: Number of networks to train.
        epochs: Largest number of epochs. None for the epochs of the protocol.
        width: Width of the network, if it has one. None for the width of the protocol.

    Examples:
        >>> import ddsdk
        >>> from ddsdk.judging import reduced_protocol
        >>> reduced_protocol(ddsdk.TrainingProtocol.quick("convnet"), networks=1, epochs=10, width=8).epochs
        10
    """
    if protocol.learner != "network":
        return protocol
    has_width = width is not None and "width" in network_parameters(protocol.network)
    return protocol.changed(
        options={"width": width} if has_width else {},
        epochs=None if epochs is None else min(epochs, protocol.epochs),
        networks=networks,
        early_stopping=epochs is None or epochs >= protocol.epochs,
    )


def _label_kind(rows: Tensor) -> str:
    sums = ((rows.double().sum(1) - 1).abs() <= 1e-4).all()
    if not bool(sums & (rows >= 0).all()):
        return "scores"
    return "hard" if bool(((rows == 0) | (rows == 1)).all()) else "soft"
