"""Accuracy against CPU seconds of distillation: a method is paused at some marks, and what it has so far is judged.

Seconds are those that the processor worked for this process: others on the machine do not count, and neither does the
judging. What a method needs before its first step, such as experts or pools, does.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, final

import torch

from ddsdk.artefact import Distilled
from ddsdk.experiments.curve import CurvePoint, CurveTask, RecipeCurve, curve_of
from ddsdk.foundation import (
    DivergedError,
    FolderBusyError,
    Store,
    Timing,
    Unit,
    canonical_json,
    clean,
    readable_json,
    strict_json,
)
from ddsdk.judging import kept_score
from ddsdk.networks import network_factory
from ddsdk.planning import family
from ddsdk.recipes import Recipe
from ddsdk.running import Run
from ddsdk.training import Evaluation, Score


class CurveProgress(NamedTuple):
    """How far a curve is.

    Attributes:
        point: A new point.
        curve: All of them; only the last progress has it.
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
        task: What all curves of a plot share.

    Yields:
        Each point once it is judged. The last progress has the curve.

    Raises:
        ArtifactError: ``"curve"``, if the result of an earlier run is no curve.
        FolderBusyError: If another process measures the same curve.
    """
    store, unit = Store(folder / "store"), Unit("curve", task.conditions(name, method))
    kept = store.read(unit.id)
    if kept is not None:
        yield CurveProgress(curve=curve_of(kept, f"the curve of {name}"), kept=True)
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
        self._rest, self._held = task.split()
        shape, classes = self._rest.image_shape, self._rest.num_classes
        network, options = task.students(method)
        student = network_factory(network, shape, classes, **options)
        self._run = Run(method, self._rest, make_student=student, seed=task.seed)

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
                yield self._at_once()
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

    def _at_once(self) -> CurvePoint:
        self.ended = True
        return self._point(None, 0)

    def _point(self, mark: float | None, step: int) -> CurvePoint:
        """Return the point of the set so far; None for the first mark that its seconds leave."""
        made, marks = self._run.distilled(), self._task.seconds
        seconds = self._spent
        if mark is None:
            mark = next((m for m in marks if m >= seconds), marks[-1])
        told = {**made.provenance, "cpu_seconds": round(seconds, 3)}
        return self._judge(dataclasses.replace(made, provenance=told), mark, seconds, step)

    def _judge(self, distilled: Distilled, mark: float, seconds: float, step: int) -> CurvePoint:
        distilled.save(self._home / f"{mark:g}")
        own = Evaluation.from_dict(distilled.evaluation)
        published = Evaluation.published(own.augmentation)
        if distilled.manifest.storage.labels != "hard":
            published = dataclasses.replace(published, labels="hard")
        # How many networks a protocol has is no part of what is measured.
        same = dataclasses.replace(own, networks=published.networks) == published
        point = CurvePoint(
            mark=mark,
            seconds=round(seconds, 3),
            step=step,
            set=distilled.content_id,
            published=self._score(distilled, self._task.short(published, epochs=self._task.judge_epochs), mark),
            own=None if same else self._score(distilled, self._task.short(own), mark),
        )
        self.judged.append(point)
        return point

    def _score(self, distilled: Distilled, evaluation: Evaluation, mark: float) -> Score:
        name, seed = f"{self._name} after {mark:g} s", self._task.seed
        return kept_score(self._home / "scores", name, distilled, self._held, evaluation, seed)
