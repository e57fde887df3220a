"""Scores of a distilled set and of baselines with the same storage budget, under one or several protocols."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from ddsdk.artefact import Distilled
from ddsdk.baselines import BASELINES
from ddsdk.data import Batch, RealData
from ddsdk.foundation import as_generator, clean, derive, generator, require
from ddsdk.judging.early import stopping_images
from ddsdk.judging.judge import EvaluationProgress, evaluation_steps, last_score
from ddsdk.judging.scores import cached_score_steps
from ddsdk.judging.stored import check_cost, stored_protocol
from ddsdk.judging.training_set import TrainingSet, in_space_of, note_geometry
from ddsdk.networks import Backbone, NetworkSpec, network_factory, network_name
from ddsdk.recipes import RECIPES
from ddsdk.running import distill
from ddsdk.students import BackboneStudents, MakeStudent
from ddsdk.synthetic import centred_labels
from ddsdk.training import Score, TrainingProtocol, protocol_on


@final
class Scores(tuple[Score, ...]):
    """Scores of an evaluation: for each network first that of the set, then those of the baselines.

    Examples:
        >>> from ddsdk import Score
        >>> from ddsdk.judging import Scores
        >>> fields = {"protocol": "quick", "network": "convnet", "images": 10, "stored_floats": 640, "seconds": 1.0}
        >>> scores = Scores((Score(name="dm", accuracies=(0.5, 0.7), **fields),))
        >>> round(scores.mean, 3)
        0.6
        >>> print(scores)
        trained on    network    protocol    images    test accuracy, %
        dm            convnet    quick       10        60.00 ± 14.14
    """

    __slots__ = ()

    @property
    def accuracies(self) -> tuple[float, ...]:
        """Test accuracies, 0..1, of the networks that were trained on the set, for the first protocol."""
        return self[0].accuracies

    @property
    def mean(self) -> float:
        """Mean test accuracy of the set over the networks, for the first protocol."""
        return self[0].mean

    @property
    def std(self) -> float:
        """Sample standard deviation of the test accuracy of the set, for the first protocol."""
        return self[0].std

    def __str__(self) -> str:
        """Return a table with one row for each score."""
        rows = [("trained on", "network", "protocol", "images", "test accuracy, %")]
        rows += [(clean(s.name), clean(s.network), clean(s.protocol), str(s.images), s.accuracy_text) for s in self]
        widths = [max(map(len, column)) + 4 for column in zip(*rows, strict=True)]
        lines = ("".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
        return "\n".join(line.rstrip() for line in lines)


def evaluate(
    data: Distilled | Batch | tuple[Tensor, Tensor],
    test: RealData,
    protocol: TrainingProtocol | None = None,
    *,
    networks: Sequence[NetworkSpec] = (),
    baselines: Sequence[str] = (),
    train: RealData | None = None,
    seed: int | torch.Generator = 0,
    name: str = "",
    results: Path | None = None,
    backbone: Backbone | None = None,
) -> Scores:
    """Train fresh networks on a set and measure their accuracy on test data, as `ddsdk evaluate` does.

    The test data get the value space of a distilled set. A learned rate or momentum of the set replaces that of the
    protocol. Images, class names, labels or learned rates that do not fit give a ValueError.

    Args:
        data: Distilled set; or images (M, C, H, W) in the value space of `test` with label rows (M, K), probabilities
            or scores, which need a `protocol`.
        test: Held-out real data, used once for each network, after its last epoch.
        protocol: Protocol of training the networks. None for that of the distilled set, within the bounds of
            `ddsdk.judging.check_cost`.
        networks: Networks to train: names, classes, functions or modules, see `ddsdk.networks.network_factory`. Empty
            for that of the protocol.
        baselines: Names of baselines with the storage budget of the distilled set, keys of `ddsdk.BASELINES`. They are
            evaluated under the same protocol.
        train: Real training data from which the baselines are selected, and the images of a protocol that stops early.
            None without both.
        seed: Root of all random numbers, from which each network derives its initial weights and its training: an
            integer, or a generator, which is not advanced.
        name: Name of the set in tables. Empty for the method of the distilled set.
        results: Folder of the scores: existing scores are not computed again. None for no folder. It needs an integer
            seed.
        backbone: Backbone of a linear probe, see `ddsdk.networks.load_backbone`. A set that was distilled for one needs
            it: the same, or another one as a transfer, for which `train` standardises the features. Any other set is
            probed with it in the place of its own protocol. None for a set of trained networks.

    Returns:
        The scores with their conditions. Each has one accuracy for each network, or a single one for a kernel machine
        or a probe, which are deterministic.

    Raises:
        TypeError: If `protocol` or `train` is missing.

    Examples:
        >>> import ddsdk
        >>> train, test = ddsdk.load_pair("digits")
        >>> distilled = ddsdk.distill(ddsdk.BASELINES["means"](ipc=1), train)
        >>> protocol = ddsdk.TrainingProtocol(name="short", epochs=2, networks=2).changed(options={"width": 4})
        >>> scores = ddsdk.evaluate(distilled, test, protocol, baselines=["random"], train=train)
        >>> [(score.name, len(score.accuracies)) for score in scores]
        [('means', 2), ('random', 2)]
    """
    if isinstance(data, Distilled):
        base = stored_protocol(data) if protocol is None else protocol
        if protocol is None:
            check_cost(base, data)
    else:
        if protocol is None:
            raise TypeError("protocol must be a TrainingProtocol for plain images and labels, got None")
        require(not baselines, "baselines", "be empty for plain images and labels; pass a Distilled", list(baselines))
        require(results is None, "results", "be None for plain images and labels; pass a Distilled", results)
        base = protocol
    require(results is None or isinstance(seed, int), "seed", "be an integer for scores in a folder", seed)
    if backbone is not None:
        require(not networks, "networks", "be empty with a backbone", list(networks))
        fits = protocol is None or protocol.learner == "probe"
        require(fits, "protocol", "be None or that of a probe with a backbone", base.name)
        standard = train if train is None or not isinstance(data, Distilled) else in_space_of(data, train, "train")
        base, backbone = protocol_on(backbone, base, standard)
    scores: list[Score] = []
    for network in networks or (None,):
        name_of_network = network if isinstance(network, str | None) else network_name(network)
        changed = base.changed(network=name_of_network)
        if isinstance(data, Distilled):
            options: dict[str, Any] = {"train": train, "results": results, "seed": seed, "name": name}
            options["backbone"] = backbone
            steps = comparison_steps(data, test, changed, baselines, network=network, **options)
            scores += [step.score for step in steps if step.score is not None]
        else:
            stopping = _stopping_images(train, changed, seed)
            training_set = TrainingSet(Batch(*data), changed, network=network, stopping=stopping, backbone=backbone)
            steps = evaluation_steps(training_set, test, rng=as_generator(seed), name=name or "set")
            scores.append(last_score(steps))
    return Scores(scores)


def comparison_steps(
    distilled: Distilled,
    test: RealData,
    protocol: TrainingProtocol,
    baselines: Sequence[str] = (),
    *,
    train: RealData | None = None,
    results: Path | None = None,
    seed: int | torch.Generator = 0,
    name: str = "",
    fresh: bool = False,
    network: NetworkSpec | None = None,
    learned: bool = True,
    backbone: Backbone | None = None,
) -> Iterator[EvaluationProgress]:
    """Yield the progress of `evaluate` on a distilled set under one protocol; the last of each set has its score.

    Args:
        distilled: Distilled set to evaluate.
        test: Held-out real data with the classes of the set, in any value space.
        protocol: Training protocol of the evaluated networks.
        baselines: Names of baselines, keys of `ddsdk.BASELINES`.
        train: Real training data of the baselines and of early stopping, with the classes of the set, in any value
            space. None without both.
        results: Folder of the scores, which is read and written. None for no folder.
        seed: Root of all random numbers: an integer, or a generator, which is not advanced; an integer with a folder.
        name: Name of the set in tables. Empty for the name of its method.
        fresh: True to compute existing scores again.
        network: Network that the user gives, whose name is in the protocol, see `TrainingSet`. None for the network
            that the protocol names.
        learned: Whether a learned rate or momentum of the set replaces that of the protocol.
        backbone: Backbone of a protocol that probes, see `TrainingSet`. None for other protocols.

    Raises:
        TypeError: If `train` is missing for baselines.

    Examples:
        >>> import ddsdk
        >>> from ddsdk.judging import comparison_steps
        >>> train, test = ddsdk.load_pair("digits")
        >>> distilled = ddsdk.distill(ddsdk.BASELINES["means"](ipc=1), train)
        >>> protocol = ddsdk.TrainingProtocol(name="short", epochs=1, networks=1).changed(options={"width": 4})
        >>> [step.done for step in comparison_steps(distilled, test, protocol, ["random"], train=train)]
        [1, 1, 2, 2]
    """
    for baseline in baselines:
        require(baseline in BASELINES, "baselines", f"be among {', '.join(BASELINES)}", baseline)
    if baselines and train is None:
        raise TypeError("train must be the real training data from which the baselines are selected, got None")
    note_geometry(distilled, test)
    # The value space of the test data is changed once: whitening is a large product.
    test = in_space_of(distilled, test)
    total = protocol.rounds * (1 + len(baselines))
    if train is not None and (baselines or protocol.early_stopping):
        train = in_space_of(distilled, train, "train")
    options: dict[str, Any] = {"fresh": fresh, "network": network, "learned": learned}
    options["backbone"] = backbone
    options["stopping"] = _stopping_images(train, protocol, seed)
    steps = cached_score_steps(results, name or method_name(distilled), distilled, test, protocol, seed, **options)
    yield from (step._replace(total=total) for step in steps)
    if not baselines or train is None:
        return
    student = _baseline_students(distilled, protocol, train, network, backbone)
    # The stored order of a distilled set is learned. A baseline is sorted by class and has to be shuffled.
    shuffled = protocol.changed(order="shuffled")
    for i, baseline in enumerate(baselines, 1):
        selection = BASELINES[baseline](ipc=baseline_size(distilled, train), augmentation=protocol.augmentation)
        rng = derive(seed, baseline) if isinstance(seed, torch.Generator) else generator(seed, baseline)
        chosen = distill(selection, train, make_student=student, seed=rng)
        # A set with scores is evaluated by regression on them; the comparable labels of real images are centred.
        if needs_centred_labels(distilled, protocol):
            chosen = with_centred_labels(chosen)
        for step in cached_score_steps(results, baseline, chosen, test, shuffled, seed, **options):
            yield step._replace(done=protocol.rounds * i + step.done, total=total)


def _baseline_students(
    distilled: Distilled,
    protocol: TrainingProtocol,
    train: RealData,
    network: NetworkSpec | None,
    backbone: Backbone | None,
) -> MakeStudent:
    """Return the factory of the networks by whose features herding and other baselines select."""
    if backbone is not None:
        return BackboneStudents(backbone, train)
    if protocol.learner == "kernel":
        # Kernel ridge regression has no features.
        return network_factory("convnet", train.image_shape, train.num_classes)
    return TrainingSet.of(distilled, protocol, network=network).factory


def _stopping_images(
    train: RealData | None, protocol: TrainingProtocol, seed: int | torch.Generator
) -> RealData | None:
    """Return the real training images of a protocol that stops early; None for other protocols."""
    if train is None or protocol.early_stopping is None:
        return None
    return stopping_images(train, protocol.early_stopping, as_generator(seed))


def baseline_size(distilled: Distilled, train: RealData) -> int:
    """Return the images per class of a baseline with the storage budget (floats) of a distilled set.

    The smallest class of the training data is the upper bound.
    """
    return min(distilled.stored_ipc, *train.class_sizes)


def needs_centred_labels(distilled: Distilled, protocol: TrainingProtocol) -> bool:
    """Return whether baselines need centred labels to be comparable with a set of label scores under a protocol."""
    regression = protocol.loss == "mse" or protocol.learner == "kernel"
    return distilled.label_space == "scores" and protocol.labels == "stored" and regression


def with_centred_labels(distilled: Distilled) -> Distilled:
    """Return a set of real images with centred hard labels, which make it comparable with a set of label scores."""
    labels = centred_labels(distilled.owner, distilled.num_classes)
    return dataclasses.replace(distilled, labels=labels, label_space="scores")


def method_name(distilled: Distilled) -> str:
    """Return the name of the recipe or baseline that made a set, as on the command line, or "set"."""
    recipe = str(distilled.provenance.get("recipe", "set"))
    classes = {method.__name__: name for name, method in {**RECIPES, **BASELINES}.items()}
    return classes.get(recipe, recipe.lower())
