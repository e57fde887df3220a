"""Evaluation of a set: fresh networks are trained on it under a protocol, and tested once, after the last epoch.

Under the protocol of a kernel machine no network is trained; kernel ridge regression on the set is tested instead.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from inspect import signature
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ddsdk.data import Batch, RealData
from ddsdk.foundation import as_generator, derive, require, require_count
from ddsdk.networks import NETWORKS, network_factory
from ddsdk.synthetic import read_labels
from ddsdk.training import InputAttack, PerStepSchedule, Score, TrainingProtocol, accuracy, kernel_machine, train


class EvaluationProgress(NamedTuple):
    """Progress of an evaluation.

    Attributes:
        done: Number of finished epochs, over all networks.
        total: Number of epochs of all networks together.
        score: Score of the set, in the last progress; None in all others.
        kept: Whether the score was read from the cache and not computed.
    """

    done: int
    total: int
    score: Score | None = None
    kept: bool = False


def evaluate(
    batch: Batch | tuple[Tensor, Tensor],
    test: RealData,
    protocol: TrainingProtocol,
    *,
    seed: int | torch.Generator = 0,
    name: str = "set",
    per_step: PerStepSchedule = PerStepSchedule(),  # noqa: B008
) -> Score:
    """Train fresh networks on a set and measure their accuracy on test data.

    Images or labels that do not fit `test`, and learned rates that do not fit the protocol, give a ValueError.

    Args:
        batch: Images (M, C, H, W) in the value space of `test`, and label rows (M, K), probabilities or scores.
        test: Held-out real data, used once for each network, after its last epoch.
        protocol: Protocol of training the networks.
        seed: Root of all random numbers, from which each network derives its initial weights and its training: an
            integer, or a generator, which is not advanced.
        name: Name of the set in tables.
        per_step: Learning rates and momenta of the training steps that were learned with the set; by default none.

    Returns:
        The accuracies with their conditions: one accuracy for each network, or a single one for a kernel machine, which
        is deterministic.

    Example:
        >>> import ddsdk
        >>> train, test = ddsdk.load_pair("digits")
        >>> distilled = ddsdk.distill(ddsdk.BASELINES["means"](ipc=1), train)
        >>> protocol = ddsdk.TrainingProtocol(name="short", epochs=2, networks=2).changed(options={"width": 4})
        >>> score = ddsdk.evaluate((distilled.images, distilled.labels), test, protocol)
        >>> len(score.accuracies)
        2
    """
    return last_score(evaluation_steps(batch, test, protocol, rng=as_generator(seed), name=name, per_step=per_step))


def last_score(steps: Iterable[EvaluationProgress]) -> Score:
    """Return the score of an evaluation: that of its last progress."""
    *_, last = steps
    assert last.score is not None
    return last.score


def evaluation_steps(
    batch: Batch | tuple[Tensor, Tensor],
    test: RealData,
    protocol: TrainingProtocol,
    *,
    rng: torch.Generator,
    name: str = "set",
    per_step: PerStepSchedule = PerStepSchedule(),  # noqa: B008
) -> Iterator[EvaluationProgress]:
    """Return an iterator over the epochs of `evaluate`, of which the last progress has the score.

    The arguments are those of `evaluate`, with a generator `rng` in place of `seed`. They are checked before the
    iterator is returned.

    Example:
        >>> import ddsdk
        >>> from ddsdk.judging import evaluation_steps
        >>> train, test = ddsdk.load_pair("digits")
        >>> batch = train.mixed(20, ddsdk.generator(0))
        >>> protocol = ddsdk.TrainingProtocol(name="short", epochs=2, networks=1).changed(options={"width": 4})
        >>> [(step.done, step.total) for step in evaluation_steps(batch, test, protocol, rng=ddsdk.generator(1))]
        [(1, 2), (2, 2), (2, 2)]
    """
    return _steps(_checked(batch, test, protocol, per_step), test, protocol, rng, name, per_step)


def network_accuracy(
    batch: Batch | tuple[Tensor, Tensor],
    test: RealData,
    protocol: TrainingProtocol,
    index: int,
    *,
    rng: torch.Generator,
    per_step: PerStepSchedule = PerStepSchedule(),  # noqa: B008
) -> float:
    """Return the test accuracy of one network of `evaluate`, equal bit for bit.

    Args:
        batch: Images and label rows, as in `evaluate`.
        test: Held-out real data, as in `evaluate`.
        protocol: Protocol of training the network.
        index: Number of the network, counted from 0.
        rng: Generator that takes the place of the seed of `evaluate`; it is not advanced.
        per_step: Learned rates and momenta, as in `evaluate`.

    Example:
        >>> import ddsdk
        >>> from ddsdk.judging import network_accuracy
        >>> train, test = ddsdk.load_pair("digits")
        >>> batch = train.mixed(20, ddsdk.generator(0))
        >>> protocol = ddsdk.TrainingProtocol(name="short", epochs=2, networks=1).changed(options={"width": 4})
        >>> accuracy = network_accuracy(batch, test, protocol, 0, rng=ddsdk.generator(1))
        >>> accuracy == ddsdk.evaluate(batch, test, protocol, seed=ddsdk.generator(1)).accuracies[0]
        True
    """
    if protocol.learner == "kernel":
        return _kernel_accuracy(_checked(batch, test, protocol, per_step), test, protocol)
    return _test_accuracy(trained_network(batch, test, protocol, index, rng=rng, per_step=per_step), test)


def trained_network(
    batch: Batch | tuple[Tensor, Tensor],
    like: RealData,
    protocol: TrainingProtocol,
    index: int,
    *,
    rng: torch.Generator,
    per_step: PerStepSchedule = PerStepSchedule(),  # noqa: B008
    adversary: InputAttack | None = None,
) -> nn.Module:
    """Return one network of `evaluate` after its training, equal bit for bit unless there is an adversary.

    Args:
        batch: Images and label rows, as in `evaluate`.
        like: Real data whose image shape and classes the network gets; its images are not used.
        protocol: Protocol of training the network; not that of a kernel machine.
        index: Number of the network, counted from 0.
        rng: Generator that takes the place of the seed of `evaluate`; it is not advanced.
        per_step: Learned rates and momenta, as in `evaluate`.
        adversary: Attack on the training images, see `ddsdk.training.train`. None for ordinary training.

    Example:
        >>> import ddsdk
        >>> from ddsdk.judging import trained_network
        >>> train, _ = ddsdk.load_pair("digits")
        >>> batch = train.mixed(20, ddsdk.generator(0))
        >>> protocol = ddsdk.TrainingProtocol(name="short", epochs=2, networks=1).changed(options={"width": 4})
        >>> network = trained_network(batch, train, protocol, 0, rng=ddsdk.generator(1))
        >>> tuple(network(batch.x).shape)
        (20, 10)
    """
    require_count("index", index, least=0)
    require(protocol.learner == "network", "learner", "be 'network'", protocol.learner)
    checked = _checked(batch, like, protocol, per_step)
    network, training = _network(checked, like, protocol, index, rng, per_step, adversary)
    for _ in training:
        pass
    return network


def _checked(
    batch: Batch | tuple[Tensor, Tensor], test: RealData, protocol: TrainingProtocol, per_step: PerStepSchedule
) -> Batch:
    x, y = batch
    require(tuple(x.shape[1:]) == test.image_shape, "images", f"have shape {test.image_shape}", tuple(x.shape[1:]))
    require(len(y) == len(x), "labels", f"have one row for each of the {len(x)} images", len(y))
    require(y.shape[1] == test.num_classes, "labels", f"have {test.num_classes} columns", y.shape[1])
    per_step.check(protocol, len(x))
    # The network is built once here, so that an unknown name or option is refused before any training.
    name, options = protocol.network, protocol.network_options
    if protocol.learner == "kernel":
        kernel_machine(name, **options)
    else:
        network_factory(name, test.image_shape, test.num_classes, **options)
    return Batch(x, y)


def _network(
    batch: Batch,
    like: RealData,
    protocol: TrainingProtocol,
    index: int,
    rng: torch.Generator,
    per_step: PerStepSchedule,
    adversary: InputAttack | None = None,
) -> tuple[nn.Module, Iterator[int]]:
    """Return a fresh network and the iterator over the epochs of its training."""
    batch = Batch(batch.x, read_labels(batch.y, protocol.labels))
    network_rng = derive(rng, "network", index)
    make = network_factory(protocol.network, like.image_shape, like.num_classes, **protocol.network_options)
    network = make(derive(network_rng, "init")).to(batch.x.device)
    return network, train(network, batch, protocol, derive(network_rng, "train"), per_step, adversary)


def _test_accuracy(network: nn.Module, test: RealData) -> float:
    return accuracy(network, test.batch(torch.arange(len(test))).x, test.labels)


def _steps(
    batch: Batch, test: RealData, protocol: TrainingProtocol, rng: torch.Generator, name: str, per_step: PerStepSchedule
) -> Iterator[EvaluationProgress]:
    began, kernel = time.perf_counter(), protocol.learner == "kernel"
    accuracies = [_kernel_accuracy(batch, test, protocol)] if kernel else []
    for i in range(0 if kernel else protocol.networks):
        network, training = _network(batch, test, protocol, i, rng, per_step)
        for epochs in training:
            yield EvaluationProgress(i * protocol.epochs + epochs, protocol.rounds)
        accuracies.append(_test_accuracy(network, test))
    yield _finished(batch, protocol, accuracies, began, name)


def _kernel_accuracy(batch: Batch, test: RealData, protocol: TrainingProtocol) -> float:
    machine = kernel_machine(protocol.network, **protocol.network_options)
    test_images = test.batch(torch.arange(len(test))).x
    with torch.no_grad():
        predictions = machine.predict(batch.x, read_labels(batch.y, protocol.labels), test_images).argmax(1)
    return int((predictions == test.labels).sum()) / len(test)


def _finished(
    batch: Batch, protocol: TrainingProtocol, accuracies: list[float], began: float, name: str
) -> EvaluationProgress:
    (x, y), seconds = batch, time.perf_counter() - began
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
        loss=protocol.loss if protocol.learner == "network" else "ridge",
    )
    return EvaluationProgress(protocol.rounds, protocol.rounds, score)


def reduced_protocol(
    protocol: TrainingProtocol, *, networks: int, epochs: int | None = None, width: int | None = None
) -> TrainingProtocol:
    """Return a cheaper protocol, whose name lists the changes; the protocol of a kernel machine is returned unchanged.

    Args:
        protocol: Protocol to be changed.
        networks: Number of networks to train.
        epochs: Largest number of epochs. None for the epochs of the protocol.
        width: Width of the network, if it has one. None for the width of the protocol.

    Example:
        >>> import ddsdk
        >>> from ddsdk.judging import reduced_protocol
        >>> reduced_protocol(ddsdk.TrainingProtocol.quick("convnet"), networks=1, epochs=10, width=8).epochs
        10
    """
    if protocol.learner == "kernel":
        return protocol
    has_width = width is not None and "width" in signature(NETWORKS[protocol.network]).parameters
    return protocol.changed(
        options={"width": width} if has_width else {},
        epochs=None if epochs is None else min(epochs, protocol.epochs),
        networks=networks,
    )


def _label_kind(rows: Tensor) -> str:
    sums = ((rows.double().sum(1) - 1).abs() <= 1e-4).all()
    if not bool(sums & (rows >= 0).all()):
        return "scores"
    return "hard" if bool(((rows == 0) | (rows == 1)).all()) else "soft"
