"""Accuracy against CPU seconds of distillation: a method is paused at some marks, and its set so far is judged.

Seconds are those that the processor worked for this process: others on the machine do not count, and neither does the
judging. Preparation before the first step, such as experts or pools, does.
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
from ddsdk.experiments.columns import Judging, ordinary_protocol, own_protocol
from ddsdk.foundation import (
    Checked,
    DivergedError,
    FolderBusyError,
    PositiveInt,
    Store,
    Timing,
    Unit,
    canonical_json,
    clean,
    generator,
    read_json,
    readable_json,
    require,
    strict_json,
)
from ddsdk.judging import kept_score
from ddsdk.networks import network_factory
from ddsdk.planning import family
from ddsdk.recipes import Recipe, student_network
from ddsdk.running import Run
from ddsdk.training import Evaluation, Score


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """A set that a method had at one time, and its accuracies.

    Attributes:
        mark: Pause that the point belongs to, in CPU seconds.
        seconds: CPU seconds of distillation until the first step that ended behind the mark.
        step: Outer steps; 0 for a method that has none.
        set: Content id of the set.
        published: Accuracy of ordinary networks that train on a class for each image, under the papers' protocol.
        own: Accuracy under the method's own protocol and labels; None where that is the same thing.
    """

    mark: float
    seconds: float
    step: int
    set: str
    published: Score
    own: Score | None = None


@dataclass(frozen=True, kw_only=True)
class RecipeCurve:
    """The points of one method.

    Attributes:
        recipe: Name of the method.
        family: Family of the method, see `ddsdk.planning.presets.FAMILIES`.
        points: Points by seconds.
        prepared: CPU seconds before the first step.
        ended: Whether the method was done before the last mark: its last set is then the one for all later marks.
        note: Reason why there are no later points; empty where there is none.
        conditions: Everything that the points depend on.
    """

    recipe: str
    family: str
    points: tuple[CurvePoint, ...]
    prepared: float
    ended: bool
    note: str = ""
    conditions: dict[str, Any]

    def at(self, mark: float) -> CurvePoint | None:
        """Return the point of a mark; of a method that was done before, the last one. None if there is none."""
        reached = [p for p in self.points if p.mark == mark or (self.ended and p.mark < mark)]
        return reached[-1] if reached else None


@dataclass(frozen=True, kw_only=True)
class _Plot:
    curves: tuple[RecipeCurve, ...]


def read_curves(path: Path) -> tuple[RecipeCurve, ...]:
    """Return the curves of a plot, from the curves.json beside it.

    Raises:
        ArtifactError: ``"curve"``, if the file holds none.
    """
    return read_json(path.read_bytes(), _Plot, "curve", f"{str(path)!r} must hold curves").curves


@dataclass(frozen=True, kw_only=True)
class CurveTask(Checked):
    """Settings of all methods of one plot.

    Attributes:
        train: Training data on a CPU, whose seconds are counted. A part is held out for judging and not distilled.
        seconds: CPU seconds of distillation at which a method is paused, rising.
        network: Network of the students; empty for the one that the protocol of the method names, with its options:
            what is learned for one network, such as its rates, is worth little to another.
        network_options: Options of its builder, above those.
        held_out: Part of the training images that judges.
        seed: Root of every random number.
        judge_networks: Fresh networks for each judgement.
        judge_epochs: Epochs under the published protocol where that has more; None for all of them. A protocol of the
            method's own keeps its epochs, which belong to its rates.
        judge_width: Width of the judging network; None for the protocol's.
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
        rising = list(self.seconds) == sorted({s for s in self.seconds if 0 < s < math.inf})
        rule = "be positive, finite and rising, at least one of them"
        require(bool(self.seconds) and rising, "seconds", rule, list(self.seconds))
        device = self.train.device.type
        require(device == "cpu", "device", "be cpu, whose seconds are counted", device)

    @property
    def judging(self) -> Judging:
        """Cost of a judgement."""
        return Judging(networks=self.judge_networks, epochs=self.judge_epochs, width=self.judge_width)

    def split(self) -> tuple[RealData, RealData]:
        """Return the images to distil, and those that judge: the same as with `ddsdk distill --validation`."""
        rest, held = self.train.split(self.held_out, generator("validation"))
        held.name = f"{self.train.name}, held-out training images"
        return rest, held

    def students(self, method: Recipe) -> tuple[str, dict[str, Any]]:
        """Return the network of a method's students, and the options of its builder."""
        return student_network(method, self.train, self.network, self.network_options)

    def conditions(self, name: str, method: Recipe) -> dict[str, Any]:
        """Return everything that the points of a method depend on, as JSON values."""
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
    """Return the name of a method's students in a table; a dash where a kernel is in their place."""
    if method.evaluation(train).learner == "kernel":
        return "–"
    return f"{network} {options['width']}" if "width" in options else network


class CurveProgress(NamedTuple):
    """Progress of a curve.

    Attributes:
        point: New point.
        curve: Curve of all points; only the last progress has it.
        kept: Whether the curve was read from a file and not measured.
    """

    point: CurvePoint | None = None
    curve: RecipeCurve | None = None
    kept: bool = False


def measuring(folder: Path, name: str, method: Recipe, task: CurveTask) -> Iterator[CurveProgress]:
    """Measure the curve of one method, or read it where it was measured under the same conditions before.

    The sets of all points are saved too. The curve is kept once it is whole: a method that was stopped on its way is
    measured again.

    Args:
        folder: Folder of the store of curves, and of a folder for each curve with its sets and scores.
        name: Name of the method.
        method: A recipe or baseline.
        task: Settings of the plot.

    Yields:
        Each point once it is judged. The last progress has the curve.

    Raises:
        ArtifactError: ``"curve"``, if the result of an earlier run is no curve.
        FolderBusyError: If another process measures the same curve.
    """
    store, unit = Store(folder / "store"), Unit("curve", task.conditions(name, method))
    kept = store.read(unit.id)
    if kept is not None:
        curve = read_json(kept, RecipeCurve, "curve", f"the curve of {name} must hold a curve")
        yield CurveProgress(curve=curve, kept=True)
        return
    with store.lease(unit.id) as held:
        if not held:
            raise FolderBusyError(f"another process measures the curve of {name} in {str(folder)!r}")
        wall, cpu = time.perf_counter(), time.process_time()
        _warm_up()
        run = _Curve(folder / f"{name}-{unit.id[:16]}", name, method, task)
        for point in run.points():
            yield CurveProgress(point=point)
        curve = RecipeCurve(
            recipe=name,
            family=family(name),
            points=tuple(run.judged),
            prepared=round(run.prepared, 3),
            ended=run.ended,
            note=run.note,
            # As a file would give them back.
            conditions=strict_json(canonical_json(dict(unit.config))),
        )
        store.publish(unit, readable_json(dataclasses.asdict(curve)), Timing.since(wall, cpu))
    yield CurveProgress(curve=curve)


def _warm_up() -> None:
    """Let torch load what it loads with the first optimizer of a process: no method is to pay for that."""
    weight = torch.zeros(1, requires_grad=True)
    for kind in (torch.optim.SGD, torch.optim.Adam):
        torch.autograd.backward(weight.sum())
        kind([weight], lr=0.1).step()


@final
class _Curve:
    """One method at work, with the points that it has so far."""

    def __init__(self, home: Path, name: str, method: Recipe, task: CurveTask) -> None:
        self.judged: list[CurvePoint] = []
        self.prepared = 0.0
        self.ended = False
        self.note = ""
        self._unfinished = 0.0
        self._home, self._name, self._task = home, name, task
        rest, self._held = task.split()
        network, options = task.students(method)
        student = network_factory(network, rest.image_shape, rest.num_classes, **options)
        self._run = Run(method, rest, make_student=student, seed=task.seed)

    def points(self) -> Iterator[CurvePoint]:
        """Distil, and give control back after each judgement."""
        try:
            trained = self._trained()
            self.prepared = self._spent
            if not trained:
                self.note = f"its networks were not trained after {self._spent:.0f} s"
            elif self._run.iterative:
                yield from self._steps()
            else:
                self.ended = True
                yield self._point(None, 0)
        except DivergedError as error:
            self.note = f"diverged after {self._spent:.0f} s: {clean(str(error))}"

    @property
    def _spent(self) -> float:
        """Processor seconds so far. Networks that an earlier run has left in the cache count as if trained now."""
        runs = self._run.runs
        return self._run.cpu_seconds + self._unfinished + (0.0 if runs is None else runs.cpu_seconds)

    def _trained(self) -> bool:
        """Train the networks that a method needs; tell whether that was done before the last mark."""
        began, before = time.process_time(), self._spent
        for _ in self._run.prepare():
            if before + time.process_time() - began >= self._task.seconds[-1]:
                self._unfinished = time.process_time() - began - (self._spent - before)
                return False
        return self._spent < self._task.seconds[-1]

    def _steps(self) -> Iterator[CurvePoint]:
        loop = self._run.distillation
        self.prepared = self._spent
        marks, judged = list(self._task.seconds), 0
        while marks and not self.ended:
            self.ended = next(self._run, None) is None
            passed = [mark for mark in marks if mark <= self._spent]
            if (passed or self.ended) and loop.index > judged:
                judged = loop.index
                before = self._run.seconds, self._run.cpu_seconds
                yield self._point((passed or marks[:1])[-1], judged)
                # Whoever stops here has to finish the set; who goes on does not.
                self._run.seconds, self._run.cpu_seconds = before
            del marks[: len(passed)]

    def _point(self, mark: float | None, step: int) -> CurvePoint:
        """Save and judge the set so far; None for the first mark that its seconds leave."""
        made, marks, judging = self._run.distilled(), self._task.seconds, self._task.judging
        seconds = round(self._spent, 3)
        if mark is None:
            mark = next((m for m in marks if m >= self._spent), marks[-1])
        distilled = dataclasses.replace(made, provenance={**made.provenance, "cpu_seconds": seconds})
        distilled.save(self._home / f"{mark:g}")
        own = own_protocol(distilled)
        published = ordinary_protocol(distilled, own.augmentation)
        # How many networks a protocol has is no part of what is measured.
        same = dataclasses.replace(own, networks=published.networks) == published
        point = CurvePoint(
            mark=mark,
            seconds=seconds,
            step=step,
            set=distilled.content_id,
            published=self._score(distilled, judging.of(published), mark),
            own=None if same else self._score(distilled, judging.of(own, own=True), mark),
        )
        self.judged.append(point)
        return point

    def _score(self, distilled: Distilled, evaluation: Evaluation, mark: float) -> Score:
        name, seed = f"{self._name} after {mark:g} s", self._task.seed
        return kept_score(self._home / "scores", name, distilled, self._held, evaluation, seed)
