"""Curves of accuracy against CPU seconds of distillation: a method is paused and its current set is evaluated.

The time is the CPU time of this process, independent of other processes. It includes the preparation before the first
step, such as training of experts, and excludes the evaluation.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, final

import torch

from ddsdk.artefact import Distilled
from ddsdk.data import RealData
from ddsdk.experiments.protocol_columns import EvaluationCost
from ddsdk.foundation import (
    CheckedDataclass,
    DivergedError,
    FolderBusyError,
    PositiveInt,
    Store,
    Timing,
    Unit,
    canonical_json,
    clean,
    generator,
    inner_folder,
    read_json,
    readable_json,
    require,
    strict_json,
)
from ddsdk.judging import cached_score, in_space_of, published_protocol, stopping_images, stored_protocol
from ddsdk.networks import network_factory
from ddsdk.planning import family
from ddsdk.recipes import Recipe, student_network
from ddsdk.running import Run
from ddsdk.training import Score, TrainingProtocol


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """Distilled set of a method after a time budget, with its accuracies.

    Attributes:
        time_budget: Time budget of the point, in CPU seconds.
        seconds: CPU seconds at the end of the first step after the time budget.
        step: Number of outer steps; 0 for a method without steps.
        set: Content id of the distilled set.
        published: Accuracy with hard labels under the published protocol of DC, DSA and DM.
        own: Accuracy under the method's own protocol and labels; None if these are the published ones.
    """

    time_budget: float
    seconds: float
    step: int
    set: str
    published: Score
    own: Score | None = None


@dataclass(frozen=True, kw_only=True)
class RecipeCurve:
    """Accuracy-time curve of one method.

    Attributes:
        recipe: Name of the method, a key of `ddsdk.planning.METHODS`.
        family: Family of the method, a key of `ddsdk.planning.presets.FAMILIES`.
        points: Points in the order of their CPU seconds.
        prepared: CPU seconds before the first step.
        ended: Whether the method finished before the last time budget. Its last set then counts for all larger ones.
        note: Reason for missing points, such as divergence; empty if none are missing.
        conditions: All settings that determine the points, as JSON values.
    """

    recipe: str
    family: str
    points: tuple[CurvePoint, ...]
    prepared: float
    ended: bool
    note: str = ""
    conditions: dict[str, Any]

    def at(self, time_budget: float) -> CurvePoint | None:
        """Return the point of a time budget, or the last one of a finished method; None if there is none."""
        reached = [
            p for p in self.points if p.time_budget == time_budget or (self.ended and p.time_budget < time_budget)
        ]
        return reached[-1] if reached else None


@dataclass(frozen=True, kw_only=True)
class _Plot:
    curves: tuple[RecipeCurve, ...]


def read_curves(path: Path) -> tuple[RecipeCurve, ...]:
    """Return the curves in a file curves.json of `ddsdk curve`. Another file is an `ArtifactError` ``"curve"``."""
    return read_json(path.read_bytes(), _Plot, "curve", f"{str(path)!r} must hold curves").curves


@dataclass(frozen=True, kw_only=True)
class CurveConfig(CheckedDataclass):
    """Settings of the curves of one plot.

    Attributes:
        train: Training data on the CPU, since CPU time is measured. A part is held out for the evaluation.
        seconds: Time budgets in CPU seconds, increasing.
        network: Student network; empty for the network of each method's protocol, with its options. Learned values,
            such as learning rates, do not transfer well to another network.
        network_options: Options of the network's builder, by name, which override those of the protocol.
        held_out: Fraction of the training images for the evaluation, in (0, 1).
        seed: Seed of all random numbers.
        judge_networks: Number of networks trained for each accuracy.
        judge_epochs: Maximum number of epochs under the published protocol; None for all of them. A method's own
            protocol keeps its number of epochs, because its learning rates are tuned for it.
        judge_width: Width of the evaluation network; None for the width of the protocol.
    """

    train: RealData
    seconds: tuple[float, ...]
    network: str = ""
    network_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    held_out: float = 0.1
    seed: int = 0
    judge_networks: PositiveInt = 1
    judge_epochs: PositiveInt | None = 300
    judge_width: PositiveInt | None = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        increasing = list(self.seconds) == sorted({s for s in self.seconds if 0 < s < math.inf})
        rule = "be at least one positive, finite number, in increasing order"
        require(bool(self.seconds) and increasing, "seconds", rule, list(self.seconds))
        device = self.train.device.type
        require(device == "cpu", "device", "be cpu, because CPU time is measured", device)

    @property
    def judging(self) -> EvaluationCost:
        """Cost limits of each evaluation."""
        return EvaluationCost(networks=self.judge_networks, epochs=self.judge_epochs, width=self.judge_width)

    def split(self) -> tuple[RealData, RealData]:
        """Return the images to distil and the images for evaluation, split as by `ddsdk distill --validation`."""
        distilled_part, held_out = self.train.split(self.held_out, generator("validation"))
        held_out.name = f"{self.train.name}, held-out training images"
        return distilled_part, held_out

    def students(self, method: Recipe) -> tuple[str, dict[str, Any]]:
        """Return the name of a method's student network and the options of its builder."""
        return student_network(method, self.train, self.network, self.network_options)

    def conditions(self, name: str, method: Recipe) -> dict[str, Any]:
        """Return all settings that determine the points of a method, as JSON values."""
        shared = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "train"}
        network, options = self.students(method)
        return {
            **shared,
            "recipe": name,
            "students": {"network": network, "options": options},
            "parameters": dataclasses.asdict(method),
            "seconds": list(self.seconds),
            "network_options": dict(self.network_options),
            "data": {"name": self.train.name, "fingerprint": self.train.fingerprint},
            "threads": torch.get_num_threads(),
            "versions": {"ddsdk": version("ddsdk"), "torch": torch.__version__},
        }


def students_label(method: Recipe, train: RealData, network: str, options: Mapping[str, Any]) -> str:
    """Return the student network of a method as a table cell; a dash for kernel ridge regression."""
    if method.protocol(train).learner == "kernel":
        return "–"
    return f"{network} {options['width']}" if "width" in options else network


class CurveProgress(NamedTuple):
    """Progress of the measurement of a curve.

    Attributes:
        point: New point of the curve; None in the last progress.
        curve: Whole curve; None except in the last progress.
        kept: Whether the curve was read from the store instead of measured.
    """

    point: CurvePoint | None = None
    curve: RecipeCurve | None = None
    kept: bool = False


def measure_curve(folder: Path, name: str, method: Recipe, task: CurveConfig) -> Iterator[CurveProgress]:
    """Measure the accuracy-time curve of one method, or read it if it was measured under equal conditions.

    The distilled sets of all points are saved. Only a whole curve is stored: a stopped measurement starts again.

    Args:
        folder: Folder of the store of curves and of the distilled sets and scores of each curve.
        name: Name of the method, a key of `ddsdk.planning.METHODS`.
        method: Recipe or baseline with its parameters.
        task: Settings of the plot.

    Yields:
        Each point after its evaluation; the last progress has the curve.

    Raises:
        FolderBusyError: If another process measures the same curve.

    Examples:
        >>> import ddsdk
        >>> task = CurveConfig(train=ddsdk.load("digits"), seconds=(0.01,), judge_epochs=1, judge_width=4)
        >>> *_, last = measure_curve(Path("curves"), "random", ddsdk.BASELINES["random"](ipc=1), task)
        >>> [(point.time_budget, point.step) for point in last.curve.points]
        [(0.01, 0)]
    """
    store, unit = Store(inner_folder(folder, "store")), Unit("curve", task.conditions(name, method))
    stored_curve = store.read(unit.id)
    if stored_curve is not None:
        curve = read_json(stored_curve, RecipeCurve, "curve", f"the curve of {name} must hold a curve")
        yield CurveProgress(curve=curve, kept=True)
        return
    with store.lease(unit.id) as leased:
        if not leased:
            raise FolderBusyError(f"another process measures the curve of {name} in {str(folder)!r}")
        wall, cpu = time.perf_counter(), time.process_time()
        _warm_up()
        measurement = _CurveMeasurement(inner_folder(folder, f"{name}-{unit.id[:16]}"), name, method, task)
        for point in measurement.points():
            yield CurveProgress(point=point)
        curve = RecipeCurve(
            recipe=name,
            family=family(name),
            points=tuple(measurement.evaluated),
            prepared=round(measurement.prepared, 3),
            ended=measurement.ended,
            note=measurement.note,
            # JSON turns tuples into lists: a measured curve and a curve from a file are then equal.
            conditions=strict_json(canonical_json(dict(unit.config))),
        )
        store.publish(unit, readable_json(dataclasses.asdict(curve)), Timing.since(wall, cpu))
    yield CurveProgress(curve=curve)


def _warm_up() -> None:
    """Take an optimizer step: the lazy imports of torch's first step must not count for the first method."""
    weight = torch.zeros(1, requires_grad=True)
    for kind in (torch.optim.SGD, torch.optim.Adam):
        torch.autograd.backward(weight.sum())
        kind([weight], lr=0.1).step()


@final
class _CurveMeasurement:
    """Measurement of the curve of one method."""

    def __init__(self, folder: Path, name: str, method: Recipe, task: CurveConfig) -> None:
        self.evaluated: list[CurvePoint] = []
        self.prepared = 0.0
        self.ended = False
        self.note = ""
        self._unfinished = 0.0
        self._folder, self._name, self._task = folder, name, task
        train, self._held_out = task.split()
        network, options = task.students(method)
        student = network_factory(network, train.image_shape, train.num_classes, **options)
        self._run = Run(method, train, make_student=student, seed=task.seed)

    def points(self) -> Iterator[CurvePoint]:
        """Yield each point after its evaluation."""
        try:
            trained = self._train_networks()
            self.prepared = self._spent
            if not trained:
                self.note = f"its experts or teachers were not trained after {self._spent:.0f} s"
            elif self._run.iterative:
                yield from self._steps()
            else:
                self.ended = True
                yield self._point(None, 0)
        except DivergedError as error:
            self.note = f"diverged after {self._spent:.0f} s: {clean(str(error))}"

    @property
    def _spent(self) -> float:
        """CPU seconds of distillation. Cached experts or teachers of an earlier run count with their training time."""
        runs = self._run.runs
        return self._run.cpu_seconds + self._unfinished + (0.0 if runs is None else runs.cpu_seconds)

    def _train_networks(self) -> bool:
        """Train the experts or teachers of the method.

        Returns:
            Whether they are trained within the largest time budget.
        """
        began, before = time.process_time(), self._spent
        for _ in self._run.prepare():
            if before + time.process_time() - began >= self._task.seconds[-1]:
                self._unfinished = time.process_time() - began - (self._spent - before)
                return False
        return self._spent < self._task.seconds[-1]

    def _steps(self) -> Iterator[CurvePoint]:
        loop = self._run.distillation
        self.prepared = self._spent
        time_budgets, last_step = list(self._task.seconds), 0
        while time_budgets and not self.ended:
            self.ended = next(self._run, None) is None
            passed = [time_budget for time_budget in time_budgets if time_budget <= self._spent]
            if (passed or self.ended) and loop.index > last_step:
                last_step = loop.index
                times = self._run.seconds, self._run.cpu_seconds
                yield self._point((passed or time_budgets[:1])[-1], last_step)
                # The time to finish the set (e.g. its labels) belongs to this point, but not to later ones.
                self._run.seconds, self._run.cpu_seconds = times
            del time_budgets[: len(passed)]

    def _point(self, time_budget: float | None, step: int) -> CurvePoint:
        """Return the point of the current set, saved and evaluated.

        Args:
            time_budget: Time budget of the point; None for the smallest one that the run fits into.
            step: Number of outer steps.
        """
        current_set, time_budgets, judging = self._run.distilled(), self._task.seconds, self._task.judging
        seconds = round(self._spent, 3)
        if time_budget is None:
            time_budget = next((m for m in time_budgets if m >= self._spent), time_budgets[-1])
        provenance = {**current_set.provenance, "cpu_seconds": seconds}
        distilled = dataclasses.replace(current_set, provenance=provenance)
        distilled.save(inner_folder(self._folder, f"{time_budget:g}"))
        own = stored_protocol(distilled)
        published = published_protocol(distilled, own.augmentation)
        # The number of networks does not change the expected accuracy.
        same_protocol = dataclasses.replace(own, networks=published.networks) == published
        point = CurvePoint(
            time_budget=time_budget,
            seconds=seconds,
            step=step,
            set=distilled.content_id,
            published=self._score(distilled, judging.of(published), time_budget),
            own=None if same_protocol else self._score(distilled, judging.of(own, own=True), time_budget),
        )
        self.evaluated.append(point)
        return point

    def _score(self, distilled: Distilled, protocol: TrainingProtocol, time_budget: float) -> Score:
        name, seed = f"{self._name} after {time_budget:g} s", self._task.seed
        folder, early = inner_folder(self._folder, "scores"), protocol.early_stopping
        train = None if early is None else in_space_of(distilled, self._run.real, "train")
        stopping = None if train is None or early is None else stopping_images(train, early, generator(seed))
        return cached_score(folder, name, distilled, self._held_out, protocol, seed, stopping=stopping)
