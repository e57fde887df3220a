"""Judge a set: train fresh networks on it under a stated protocol and test them once, at the end.

A set for a kernel machine trains none: kernel ridge regression on it is tested instead.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from inspect import signature
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ddsdk.data import Batch, RealData
from ddsdk.foundation import derive, require, require_count, root
from ddsdk.networks import NETWORKS, network_factory
from ddsdk.synthetic import read_labels
from ddsdk.training import Adversary, Evaluation, Pace, Score, accuracy, kernel_machine, train


class Progress(NamedTuple):
    """Progress of an evaluation.

    Attributes:
        done: Finished epochs, counted over all networks.
        total: Epochs of all networks.
        score: Result; only the last progress has it.
        kept: Whether the score was read from a file and not computed.
    """

    done: int
    total: int
    score: Score | None = None
    kept: bool = False


def evaluate(
    batch: Batch | tuple[Tensor, Tensor],
    test: RealData,
    evaluation: Evaluation,
    *,
    seed: int | torch.Generator = 0,
    name: str = "set",
    pace: Pace = Pace(),  # noqa: B008
) -> Score:
    """Train fresh networks on a set and return their accuracy on `test`.

    Args:
        batch: Images (M, C, H, W) in the value space of `test`, and label rows (M, K), probabilities or scores.
        test: Held-out real data; read once for each network, after its last epoch.
        evaluation: Protocol of the training.
        seed: Seed, or generator, from which each network derives its initial weights and training.
        name: Name of the set in tables.
        pace: Rate and momentum of each step, where they were learned with the set.

    Returns:
        The accuracies with their conditions; one accuracy for a kernel machine, which draws nothing.

    Raises:
        ValueError: If images or labels do not fit `test`, or the pace does not fit the protocol.
    """
    return last_score(evaluating(batch, test, evaluation, rng=root(seed), name=name, pace=pace))


def last_score(steps: Iterable[Progress]) -> Score:
    """Return the score of an evaluation, which its last progress has."""
    *_, last = steps
    assert last.score is not None
    return last.score


def evaluating(
    batch: Batch | tuple[Tensor, Tensor],
    test: RealData,
    evaluation: Evaluation,
    *,
    rng: torch.Generator,
    name: str = "set",
    pace: Pace = Pace(),  # noqa: B008
) -> Iterator[Progress]:
    """Do what `evaluate` does with a generator for its seed, giving control back after each epoch.

    The arguments are checked before this returns.
    """
    return _steps(_checked(batch, test, evaluation, pace), test, evaluation, rng, name, pace)


def network_accuracy(
    batch: Batch | tuple[Tensor, Tensor],
    test: RealData,
    evaluation: Evaluation,
    index: int,
    *,
    rng: torch.Generator,
    pace: Pace = Pace(),  # noqa: B008
) -> float:
    """Return the accuracy of one of the networks that `evaluate` trains, the same to the last bit.

    The arguments are those of `evaluate`, with a generator for its seed, and the number of the network, from 0.
    """
    if evaluation.learner == "kernel":
        return _kernel_accuracy(_checked(batch, test, evaluation, pace), test, evaluation)
    return _test_accuracy(trained_network(batch, test, evaluation, index, rng=rng, pace=pace), test)


def trained_network(
    batch: Batch | tuple[Tensor, Tensor],
    like: RealData,
    evaluation: Evaluation,
    index: int,
    *,
    rng: torch.Generator,
    pace: Pace = Pace(),  # noqa: B008
    adversary: Adversary | None = None,
) -> nn.Module:
    """Return one of the networks that `evaluate` trains, the same to the last bit where there is no adversary.

    The arguments are those of `network_accuracy`, of whose data only shape and classes are read, and the adversary of
    `ddsdk.training.train`.
    """
    require_count("index", index, least=0)
    require(evaluation.learner == "network", "learner", "be 'network'", evaluation.learner)
    checked = _checked(batch, like, evaluation, pace)
    network, training = _network(checked, like, evaluation, index, rng, pace, adversary)
    for _ in training:
        pass
    return network


def _checked(batch: Batch | tuple[Tensor, Tensor], test: RealData, evaluation: Evaluation, pace: Pace) -> Batch:
    x, y = batch
    require(tuple(x.shape[1:]) == test.image_shape, "images", f"have shape {test.image_shape}", tuple(x.shape[1:]))
    require(len(y) == len(x), "labels", f"have one row for each of the {len(x)} images", len(y))
    require(y.shape[1] == test.num_classes, "labels", f"have {test.num_classes} columns", y.shape[1])
    pace.check(evaluation, len(x))
    # An unknown network or option is refused here.
    name, options = evaluation.network, evaluation.network_options
    if evaluation.learner == "kernel":
        kernel_machine(name, **options)
    else:
        network_factory(name, test.image_shape, test.num_classes, **options)
    return Batch(x, y)


def _network(
    batch: Batch,
    like: RealData,
    evaluation: Evaluation,
    index: int,
    rng: torch.Generator,
    pace: Pace,
    adversary: Adversary | None = None,
) -> tuple[nn.Module, Iterator[int]]:
    """Return a fresh network, and the epochs of its training."""
    shown = Batch(batch.x, read_labels(batch.y, evaluation.labels))
    key = derive(rng, "network", index)
    make = network_factory(evaluation.network, like.image_shape, like.num_classes, **evaluation.network_options)
    network = make(derive(key, "init")).to(batch.x.device)
    return network, train(network, shown, evaluation, derive(key, "train"), pace, adversary)


def _test_accuracy(network: nn.Module, test: RealData) -> float:
    return accuracy(network, test.batch(torch.arange(len(test))).x, test.labels)


def _steps(
    batch: Batch, test: RealData, evaluation: Evaluation, rng: torch.Generator, name: str, pace: Pace
) -> Iterator[Progress]:
    began, kernel = time.perf_counter(), evaluation.learner == "kernel"
    accuracies = [_kernel_accuracy(batch, test, evaluation)] if kernel else []
    for i in range(0 if kernel else evaluation.networks):
        network, training = _network(batch, test, evaluation, i, rng, pace)
        for epochs in training:
            yield Progress(i * evaluation.epochs + epochs, evaluation.rounds)
        accuracies.append(_test_accuracy(network, test))
    yield _finished(batch, evaluation, accuracies, began, name)


def _kernel_accuracy(batch: Batch, test: RealData, evaluation: Evaluation) -> float:
    machine = kernel_machine(evaluation.network, **evaluation.network_options)
    held_out = test.batch(torch.arange(len(test))).x
    with torch.no_grad():
        found = machine.predict(batch.x, read_labels(batch.y, evaluation.labels), held_out).argmax(1)
    return int((found == test.labels).sum()) / len(test)


def _finished(batch: Batch, evaluation: Evaluation, accuracies: list[float], began: float, name: str) -> Progress:
    (x, y), seconds = batch, time.perf_counter() - began
    kind = _kind(y)
    same = evaluation.labels == "stored" or kind == "hard"
    score = Score(
        name=name,
        protocol=evaluation.protocol,
        network=evaluation.network_label,
        accuracies=tuple(accuracies),
        images=len(x),
        stored_floats=x.numel() + (len(y) if kind == "hard" else y.numel()),
        seconds=seconds,
        labels=kind if same else f"{kind} as {evaluation.labels}",
        loss=evaluation.loss if evaluation.learner == "network" else "ridge",
    )
    return Progress(evaluation.rounds, evaluation.rounds, score)


def shortened(
    evaluation: Evaluation, *, networks: int, epochs: int | None = None, width: int | None = None
) -> Evaluation:
    """Return a protocol that costs less, with a name that says so; that of a kernel machine stays.

    Args:
        evaluation: The protocol.
        networks: Number of networks.
        epochs: Most epochs; None for those of the protocol.
        width: Width of a network that has one; None for that of the protocol.
    """
    if evaluation.learner == "kernel":
        return evaluation
    wide = width is not None and "width" in signature(NETWORKS[evaluation.network]).parameters
    return evaluation.changed(
        options={"width": width} if wide else {},
        epochs=None if epochs is None else min(epochs, evaluation.epochs),
        networks=networks,
    )


def _kind(rows: Tensor) -> str:
    sums = ((rows.double().sum(1) - 1).abs() <= 1e-4).all()
    if not bool(sums & (rows >= 0).all()):
        return "scores"
    return "hard" if bool(((rows == 0) | (rows == 1)).all()) else "soft"
