"""Comparison of one distilled set with real images: what its labels, its protocol and its images are worth."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, final

import torch

from ddsdk.artefact import Distilled
from ddsdk.baselines import BASELINES
from ddsdk.data import Preprocess, RealData
from ddsdk.experiments.dd_ranking import (
    augmentation_robust_score,
    hard_label_recovery,
    improvement_over_random,
    label_robust_score,
)
from ddsdk.experiments.intervals import half_width
from ddsdk.experiments.same_labels import with_labels_of_kind
from ddsdk.experiments.units import package_versions
from ddsdk.foundation import Store, Timing, Unit, as_generator, canonical_json, generator, require, strict_json
from ddsdk.judging import (
    EvaluationProgress,
    TrainingSet,
    baseline_size,
    cached_score_steps,
    comparison_steps,
    in_space_of,
    method_name,
    network_and_epochs,
    stopping_images,
    top1_accuracy,
)
from ddsdk.networks import NetworkSpec
from ddsdk.running import distill
from ddsdk.training import Score, TrainingProtocol

OWN, PLAIN, COMMON = "own protocol", "own, no augmentation", "hard labels"
SET, RANDOM = "set", "random"
_FULL_STEPS, _FULL_EPOCHS = 5000, 300


class RankingScores(NamedTuple):
    """Scores of DD-Ranking, see `ddsdk.experiments.dd_ranking`; None for a score with a missing accuracy.

    Attributes:
        hlr: Hard-label recovery, in -1..1; lower is better.
        ior: Improvement over random images with labels of the same kind, in -1..1; higher is better.
        lrs: Label-robust score, in 0..1; higher is better.
        ars: Augmentation-robust score, in 0..1; higher is better.
    """

    hlr: float | None
    ior: float | None
    lrs: float | None
    ars: float | None


@dataclass(frozen=True)
class MeanAccuracy:
    """Mean test accuracy with its 95 % confidence interval.

    Attributes:
        mean: Mean accuracy over all networks and seeds, in 0..1.
        half: Half of the width of the interval; None for a single network.
        networks: Number of trained networks.
        seconds: Seconds of training and testing.
    """

    mean: float
    half: float | None
    networks: int
    seconds: float


def mean_accuracy(scores: Sequence[Score], *, selected: bool) -> MeanAccuracy:
    """Return the mean accuracy of the scores of several seeds with its interval.

    Args:
        scores: Scores of one set, or of selections of real images, one for each seed.
        selected: Whether each seed has another selection of images. The interval then comes from the means of the
            seeds, if there are two or more, because networks on the same images are not independent.

    Examples:
        >>> from ddsdk import Score
        >>> from ddsdk.experiments.set_comparison import mean_accuracy
        >>> fields = {"name": "dm", "protocol": "quick", "network": "mlp", "images": 9, "stored_floats": 9}
        >>> mean_accuracy([Score(accuracies=(0.5, 0.7), seconds=1.0, **fields)], selected=False).networks
        2
    """
    values = [accuracy for score in scores for accuracy in score.accuracies]
    means = [score.mean for score in scores]
    half = half_width(means if selected and len(means) > 1 else values)
    return MeanAccuracy(statistics.fmean(means), half, len(values), sum(score.seconds for score in scores))


def full_data_protocol(common: TrainingProtocol, images: int, epochs: int | None) -> TrainingProtocol:
    """Return the protocol of a network on the full training set: the common one without augmentation.

    Args:
        common: Common protocol of the comparison.
        images: Number of training images, at least 1.
        epochs: Number of epochs. None for 5000 steps, at most 300 epochs.
    """
    steps = common.steps_in_epoch(images)
    chosen = epochs or min(_FULL_EPOCHS, math.ceil(_FULL_STEPS / steps))
    name = f"full training set, {chosen} epochs"
    return dataclasses.replace(common, name=name, augmentation="", epochs=chosen, networks=1, labels="stored")


def labelled_name(distilled: Distilled) -> str:
    """Return the name, in stored scores, of random images with labels of the kind of a set.

    Args:
        distilled: Set with soft labels or scores.
    """
    return f"{RANDOM}, labels as {distilled.content_id[:8]}"


@final
class SetComparison:
    """Evaluation of a set and of real images of equal storage, under its own protocol and under the common one.

    Scores are stored in a folder, as those of `ddsdk.judging.cached_score`, and are not computed again.

    Args:
        distilled: Distilled set to compare.
        train: Real training data, in any value space.
        test: Held-out real data, in any value space.
        results: Folder of the scores, which is read and written.
        own: Protocol of the set.
        common: Protocol of all sets of these data, with hard labels.
        networks: Further networks of the common protocol, by name: changed protocols with the networks of the user.
        baselines: Names of baselines under the common protocol, keys of `ddsdk.BASELINES`.
        seeds: Roots of all random numbers; each gives new networks and new selections of real images.
        full_epochs: Number of epochs of a network on the full training set, which also labels real images. None for
            5000 steps, at most 300 epochs; 0 for no such network.
        fresh: Whether existing scores are computed again.

    Examples:
        >>> import ddsdk
        >>> from pathlib import Path
        >>> train, test = ddsdk.load_pair("digits")
        >>> distilled = ddsdk.distill(ddsdk.BASELINES["means"](ipc=1), train)
        >>> protocol = ddsdk.TrainingProtocol(name="short", epochs=1, networks=1).changed(options={"width": 4})
        >>> options = {"own": protocol, "common": protocol, "results": Path("compared"), "full_epochs": 1}
        >>> comparison = ddsdk.experiments.SetComparison(distilled, train, test, baselines=["random"], **options)
        >>> len([step for step in comparison.steps() if step.score is not None])
        4
        >>> comparison.settings
        ['own protocol', 'hard labels']
    """

    def __init__(
        self,
        distilled: Distilled,
        train: RealData,
        test: RealData,
        *,
        results: Path,
        own: TrainingProtocol,
        common: TrainingProtocol,
        networks: Mapping[str, tuple[TrainingProtocol, NetworkSpec]] | None = None,
        baselines: Sequence[str] = (RANDOM, "k-means", "moderate"),
        seeds: Sequence[int] = (0,),
        full_epochs: int | None = None,
        fresh: bool = False,
    ) -> None:
        require(len(seeds) > 0, "seeds", "hold at least one number", list(seeds))
        for name in baselines:
            require(name in BASELINES, "baselines", f"be among {', '.join(BASELINES)}", name)
        rule = "train networks or a kernel; `ddsdk evaluate --backbone SPEC` probes the set beside real images"
        require(own.learner != "probe", "own protocol", rule, own.network_label)
        self.distilled, self.seeds, self.fresh = distilled, tuple(seeds), fresh
        # Whitening is a large product, and is done once.
        self.train, self.test = in_space_of(distilled, train, "train"), in_space_of(distilled, test)
        self.results, self.baselines = results, list(baselines)
        # Random images of the own protocol have the rate that was learned with the set, which belongs to the protocol.
        self.own, _ = own.with_learned(distilled.learned_lr, distilled.learned_momentum)
        self.common = common
        self.full = None if full_epochs == 0 else full_data_protocol(common, len(train), full_epochs)
        self._protocols: dict[str, tuple[TrainingProtocol, NetworkSpec | None]] = {OWN: (self.own, None)}
        if own.augmentation and own.learner == "network":
            plain = dataclasses.replace(self.own, name=f"{own.name}, no augmentation", augmentation="")
            self._protocols[PLAIN] = (plain, None)
        self._protocols[COMMON] = (common, None)
        self._protocols |= {f"{COMMON}, {name}": pair for name, pair in (networks or {}).items()}
        self._scores: dict[tuple[str, str], list[Score]] = {}
        self._full_accuracies: list[tuple[float, float]] = []

    @property
    def settings(self) -> list[str]:
        """Rows of the comparison: own protocol with and without augmentation, hard labels, hard labels by networks."""
        return list(self._protocols)

    @property
    def soft(self) -> bool:
        """Whether the set trains on soft labels or scores under its own protocol."""
        return self.distilled.manifest.storage.labels != "hard" and self.own.labels in ("stored", "probabilities")

    @property
    def rounds(self) -> int:
        """Number of epochs of all networks of the comparison together."""
        rounds = 0 if self.full is None else self.full.epochs
        for setting, (protocol, _) in self._protocols.items():
            rounds += protocol.rounds * (1 + len(self._columns(setting)))
        return rounds * len(self.seeds)

    def protocol(self, setting: str) -> TrainingProtocol:
        """Return the training protocol of a row.

        Args:
            setting: Name of the row, an entry of `settings`.
        """
        return self._protocols[setting][0]

    def _columns(self, setting: str) -> list[str]:
        if setting in (OWN, PLAIN):
            return [RANDOM] if not self.soft or self.full is not None else []
        return self.baselines if setting == COMMON else [name for name in self.baselines if name == RANDOM]

    def steps(self) -> Iterator[EvaluationProgress]:
        """Yield the progress of the evaluations; the last progress of each set has its score."""
        done, total = 0, self.rounds
        for seed in self.seeds:
            parts: list[tuple[int, str, Iterator[EvaluationProgress]]] = []
            if self.full is not None:
                parts.append((self.full.epochs, "", self._full_steps(self.full, seed)))
            for setting, (protocol, _) in self._protocols.items():
                rounds = protocol.rounds * (1 + len(self._columns(setting)))
                parts.append((rounds, setting, self._setting_steps(setting, seed)))
            for rounds, setting, part in parts:
                columns = iter([SET, *self._columns(setting)]) if setting else iter(())
                for step in part:
                    if step.score is not None and setting:
                        self._scores.setdefault((setting, next(columns)), []).append(step.score)
                    yield step._replace(done=done + step.done, total=total)
                done += rounds

    def _setting_steps(self, setting: str, seed: int) -> Iterator[EvaluationProgress]:
        protocol, network = self._protocols[setting]
        labelled = self.soft and setting in (OWN, PLAIN)
        options: dict[str, Any] = {"results": self.results, "seed": seed, "fresh": self.fresh, "network": network}
        # The rate that was learned with the set is part of its own protocol, and not of the common one.
        options["learned"] = setting in (OWN, PLAIN)
        baselines = [] if labelled else self._columns(setting)
        yield from comparison_steps(self.distilled, self.test, protocol, baselines, train=self.train, **options)
        if not labelled or self.full is None:
            return
        chosen = self._labelled(seed)
        assert chosen is not None
        stopping = protocol.early_stopping
        images = None if stopping is None else stopping_images(self.train, stopping, as_generator(seed))
        shuffled, name = protocol.changed(order="shuffled"), labelled_name(self.distilled)
        options = {"fresh": self.fresh, "stopping": images}
        for step in cached_score_steps(self.results, name, chosen, self.test, shuffled, seed, **options):
            yield step._replace(done=protocol.rounds + step.done)

    def _unit(self, kind: str, seed: int, **conditions: Any) -> Unit:  # noqa: ANN401
        assert self.full is not None
        config = {
            "train": self.train.fingerprint,
            "test": self.test.fingerprint,
            "space": _digest(self.distilled.preprocess),
            "protocol": self.full.to_dict(),
            "seed": seed,
            "device": self.test.device.type,
            "versions": package_versions(),
        }
        return Unit(kind, config | conditions)

    def _labelled_unit(self, seed: int) -> Unit:
        return self._unit("labelled", seed, set=self.distilled.content_id, own=self.own.to_dict())

    def _labelled(self, seed: int) -> Distilled | None:
        content = Store(self.results).read(self._labelled_unit(seed).id)
        return None if content is None else Distilled.from_bytes(content)

    def _full_steps(self, protocol: TrainingProtocol, seed: int) -> Iterator[EvaluationProgress]:
        """Yield the epochs of a network on all training images, which then labels random ones of this seed."""
        store, unit, name = Store(self.results), self._unit("full", seed), "all training images"
        kept = None if self.fresh else store.read(unit.id)
        if kept is None or (self.soft and self._labelled(seed) is None):
            store.make()
            wall, cpu = time.perf_counter(), time.process_time()
            training_set = TrainingSet(self.train.batch(torch.arange(len(self.train))), protocol)
            network, epochs = network_and_epochs(training_set, 0, rng=generator(seed, name))
            for done in epochs:
                yield EvaluationProgress(done, protocol.epochs, name=name)
            if self.soft:
                labelled = with_labels_of_kind(self._random(seed), self.distilled, self.own, network)
                wanted = self._labelled_unit(seed)
                store.publish(wanted, labelled.to_bytes(), Timing.since(wall, cpu), replace=self.fresh)
            kept = canonical_json(
                {"accuracy": top1_accuracy(network, self.test), "seconds": time.perf_counter() - wall}
            )
            store.publish(unit, kept, Timing.since(wall, cpu), replace=self.fresh)
        found = strict_json(kept)
        self._full_accuracies.append((float(found["accuracy"]), float(found["seconds"])))
        yield EvaluationProgress(protocol.epochs, protocol.epochs, kept=True, name=name)

    def _random(self, seed: int) -> Distilled:
        """Return random images of equal storage, as many as the storage of the images of the set allows."""
        method = BASELINES[RANDOM](ipc=baseline_size(self.distilled, self.train), augmentation=self.own.augmentation)
        return distill(method, self.train, seed=generator(seed, RANDOM))

    def accuracy(self, setting: str, column: str) -> MeanAccuracy | None:
        """Return the mean accuracy of a cell of the comparison; None if it was not computed.

        Args:
            setting: Name of the row, an entry of `settings`.
            column: Name of the column: "set" or the name of a baseline.
        """
        scores = self._scores.get((setting, column))
        return None if scores is None else mean_accuracy(scores, selected=column != SET)

    @property
    def full_accuracy(self) -> MeanAccuracy | None:
        """Mean accuracy of networks on the full training set; None without them."""
        if not self._full_accuracies:
            return None
        values = [accuracy for accuracy, _ in self._full_accuracies]
        seconds = sum(seconds for _, seconds in self._full_accuracies)
        return MeanAccuracy(statistics.fmean(values), half_width(values), len(values), seconds)

    @property
    def ranking(self) -> RankingScores:
        """Scores of DD-Ranking from the mean accuracies; None for those with a missing accuracy."""
        full, hard = self.full_accuracy, self.accuracy(COMMON, SET)
        recovery = None if full is None or hard is None else hard_label_recovery(full.mean, hard.mean)
        improvement = self._improvement(OWN)
        # A protocol without augmentation has one improvement, which counts twice.
        plain = self._improvement(PLAIN) if PLAIN in self._protocols else improvement
        return RankingScores(
            recovery,
            improvement,
            None if recovery is None or improvement is None else label_robust_score(recovery, improvement),
            None if improvement is None or plain is None else augmentation_robust_score(improvement, plain),
        )

    def _improvement(self, setting: str) -> float | None:
        own, random = self.accuracy(setting, SET), self.accuracy(setting, RANDOM)
        return None if own is None or random is None else improvement_over_random(own.mean, random.mean)

    @property
    def name(self) -> str:
        """Name of the method that made the set, as on the command line."""
        return method_name(self.distilled)


def _digest(preprocess: Preprocess) -> str:
    fields, tensors = preprocess.to_state()
    content = hashlib.sha256(canonical_json(fields))
    for name in sorted(tensors):
        content.update(tensors[name].cpu().contiguous().numpy().tobytes())
    return content.hexdigest()
