"""Accuracy against CPU seconds of distillation: a method is paused at some marks, and what it has so far is judged.

Seconds are those that the processor worked for this process: others on the machine do not count, and neither does the
judging. What a method needs before its first step, such as experts or pools, does.
"""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, final

import torch

from ddsdk.assemble import assemble
from ddsdk.bench.curve import CurvePoint, CurveTask, RecipeCurve, read_curve
from ddsdk.bench.presets import family
from ddsdk.distill import Distillation
from ddsdk.distilled import Distilled
from ddsdk.errors import DivergedError
from ddsdk.evaluation import Evaluation, Score
from ddsdk.files import canonical_json, lock, readable_json, strict_json, write_atomic
from ddsdk.networks.catalog import network_factory
from ddsdk.recipes.base import IterativeRecipe, runs_record, trained_runs
from ddsdk.rng import generator
from ddsdk.scores import kept_score
from ddsdk.students.runs import TrainedRuns
from ddsdk.text import clean

__all__ = ["CurveProgress", "measuring"]

_RECORD = "curve.json"


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


def measuring(folder: Path, name: str, method: Any, task: CurveTask) -> Iterator[CurveProgress]:  # noqa: ANN401
    """Measure the curve of one method, or read it where it was measured under the same conditions before.

    The sets of all points are saved too. The record is written once the curve is whole: a method that was stopped on
    its way is measured again.

    Args:
        folder: The curve has a folder of its own in it, named after method and conditions.
        name: Name of the method.
        method: A recipe or baseline.
        task: What all curves of a plot share.

    Yields:
        Each point once it is judged. The last progress has the curve.

    Raises:
        ArtifactError: ``"curve"``, if a file of an earlier run is no curve.
        FolderBusyError: If another process measures the same curve.
    """
    conditions = task.conditions(name, method)
    home = folder / f"{name}-{hashlib.sha256(canonical_json(conditions)).hexdigest()[:16]}"
    path = home / _RECORD
    if path.is_file():
        yield CurveProgress(curve=read_curve(path), kept=True)
        return
    home.mkdir(parents=True, exist_ok=True)
    with lock(home):
        _warm_up()
        run = _Run(home, name, method, task)
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
            conditions=strict_json(canonical_json(conditions)),
        )
        write_atomic(path, readable_json(dataclasses.asdict(curve)))
    yield CurveProgress(curve=curve)


def _warm_up() -> None:
    """Let torch load what it loads with the first optimizer of a process: no method is to pay for that."""
    weight = torch.zeros(1, requires_grad=True)
    for kind in (torch.optim.SGD, torch.optim.Adam):
        torch.autograd.backward(weight.sum())
        kind([weight], lr=0.1).step()


@final
class _Run:
    """One method at work, with the seconds that it has taken so far."""

    def __init__(self, home: Path, name: str, method: Any, task: CurveTask) -> None:  # noqa: ANN401
        self.judged: list[CurvePoint] = []
        self.prepared = 0.0
        self.ended = False
        self.note = ""
        self._home, self._name, self._method, self._task = home, name, method, task
        self._rest, self._held = task.split()
        shape, classes = self._rest.image_shape, self._rest.num_classes
        network, options = task.students(method)
        self._student = network_factory(network, shape, classes, **options)
        self._rng = generator(task.seed)
        self._spent = self._wall = 0.0

    def points(self) -> Iterator[CurvePoint]:
        """Distil, and give control back after each judgement."""
        with self._counted():
            runs = trained_runs(self._method, self._rest, make_student=self._student, rng=self._rng)
        try:
            if runs is not None and not self._make(runs):
                self.prepared = self._spent
                self.note = f"its networks were not trained after {self._spent:.0f} s"
            elif isinstance(self._method, IterativeRecipe):
                yield from self._steps(runs)
            else:
                yield self._at_once()
        except DivergedError as error:
            self.note = f"diverged after {self._spent:.0f} s: {clean(str(error))}"

    @contextmanager
    def _counted(self) -> Iterator[None]:
        cpu, wall = time.process_time(), time.perf_counter()
        try:
            yield
        finally:
            self._spent += time.process_time() - cpu
            self._wall += time.perf_counter() - wall

    def _make(self, runs: TrainedRuns) -> bool:
        """Train the networks that a method needs; tell whether that was done before the last mark."""
        # Networks that an earlier run has left in the cache count as if they had been trained now.
        self._spent += runs.cpu_seconds
        self._wall += runs.seconds
        making = runs.make()
        while self._spent < self._task.seconds[-1]:
            with self._counted():
                if next(making, None) is None:
                    return True
        return False

    def _steps(self, runs: TrainedRuns | None) -> Iterator[CurvePoint]:
        with self._counted():
            distillation = self._method.distillation(self._rest, make_student=self._student, rng=self._rng)
        self.prepared = self._spent
        marks, judged = list(self._task.seconds), 0
        while marks and not self.ended:
            with self._counted():
                self.ended = next(distillation, None) is None
            passed = [mark for mark in marks if mark <= self._spent]
            if (passed or self.ended) and distillation.index > judged:
                judged = distillation.index
                yield self._paused(distillation, runs, (passed or marks[:1])[-1])
            del marks[: len(passed)]

    def _paused(self, distillation: Distillation[Any], runs: TrainedRuns | None, mark: float) -> CurvePoint:
        before = self._spent, self._wall
        with self._counted():
            result = distillation.result
        seconds, wall = self._spent, self._wall
        # Whoever stops here has to finish the set; who goes on does not.
        self._spent, self._wall = before
        distilled = assemble(
            self._method,
            result,
            self._rest,
            evaluation=self._method.evaluation(self._rest),
            rng=self._rng,
            seconds=wall,
            make_student=self._student,
            run={**distillation.record(), **runs_record(runs), "cpu_seconds": round(seconds, 3)},
        )
        return self._judge(distilled, mark, seconds, distillation.index)

    def _at_once(self) -> CurvePoint:
        self.prepared = self._spent
        with self._counted():
            distilled = self._method(self._rest, make_student=self._student, rng=self._rng)
        self.ended = True
        marks = self._task.seconds
        mark = next((m for m in marks if m >= self._spent), marks[-1])
        return self._judge(distilled, mark, self._spent, 0)

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
            published=self._score(
                distilled, self._task.short(published, epochs=self._task.judge_epochs), mark
            ),
            own=None if same else self._score(distilled, self._task.short(own), mark),
        )
        self.judged.append(point)
        return point

    def _score(self, distilled: Distilled, evaluation: Evaluation, mark: float) -> Score:
        name, seed = f"{self._name} after {mark:g} s", self._task.seed
        return kept_score(self._home / "scores", name, distilled, self._held, evaluation, seed)
