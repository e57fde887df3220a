"""Make the sets of a table, judge them and the baselines, and gather the rows: all of it in units."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, final

from ddsdk.artefact import Distilled
from ddsdk.baselines import BASELINES
from ddsdk.data import RealData
from ddsdk.experiments.columns import COLUMNS, Column, Judging, own_protocol, wants_centred
from ddsdk.experiments.executors import Executor
from ddsdk.experiments.kinds import Entry, Place, Task, accuracy_of, compute_in, set_of
from ddsdk.experiments.published import PUBLISHED, published, transferred
from ddsdk.experiments.table import Cell, Measured, TableRow
from ddsdk.experiments.table_plan import fitted_entry
from ddsdk.experiments.tables import figure_kind
from ddsdk.experiments.worker import UNIT_ERRORS, Done
from ddsdk.foundation import ArtifactError, Store, Unit
from ddsdk.running import Run
from ddsdk.training import Evaluation

_TAUGHT = frozenset(("sre2l", "rded"))
"""Methods whose labels come from networks that were trained on the real data."""


class Wave(NamedTuple):
    """How far a table is.

    Attributes:
        name: What is being done.
        done: Finished units of it.
        total: All of them.
        last: What has just been finished; None at the start of a wave.
    """

    name: str
    done: int
    total: int
    last: Done | None = None


@final
class TableRun:
    """One table: methods, times numbers of images, times sets, times protocols, times networks.

    Args:
        table: A key of `COLUMNS`.
        entries: Methods with their settings, ipc among them.
        task: What the units share.
        train: The training data.
        store: Folder of the units, the lengths that a budget buys among them.
        place: Where the data lies for this process.
        sets: Distilled sets of each method.
        judging: What a judgement may cost.
        budget: Seconds of a set, networks that it needs included; None leaves methods as they are.
        baselines: Real images that take as many floats, by the name of their choice.
        whole: Epochs of networks on all of the training data, which fair scores want; 0 for none.
    """

    def __init__(
        self,
        table: str,
        entries: Sequence[Entry],
        task: Task,
        train: RealData,
        store: Path,
        *,
        place: Place,
        sets: int = 1,
        judging: Judging | None = None,
        budget: float | None = None,
        baselines: Sequence[str] = ("random", "k-means"),
        whole: int = 0,
    ) -> None:
        self.table, self.whole = table, whole or None
        self.store = Store(store)
        self._entries, self._task, self._train, self._place = list(entries), task, train, place
        self._sets, self._judging = sets, judging or Judging()
        self._budget = budget
        self._baselines = list(baselines)
        self._made: dict[int, list[Unit]] = {}
        self._needed: dict[tuple[int, int], list[Unit]] = {}

    def run(self, executor: Executor) -> Iterator[Wave]:
        """Do what is missing, one wave after another.

        Yields:
            How far it is, after each unit.
        """
        yield from self._wave("networks", self._networks(), executor)
        yield from self._wave("sets", self._distil(), executor)
        yield from self._wave("judging", self._judge(), executor)

    def _wave(self, name: str, units: list[Unit], executor: Executor) -> Iterator[Wave]:
        units = list({unit.id: unit for unit in units}.values())
        yield Wave(name, 0, len(units))
        for i, done in enumerate(executor.run(self.store, units, compute_in(self._place)), 1):
            yield Wave(name, i, len(units), done)

    def _networks(self) -> list[Unit]:
        found = []
        for i, entry in enumerate(self._entries):
            for s in range(self._sets):
                self._needed[i, s] = self._networks_of(entry, s)
                found += self._needed[i, s]
        return found

    def _networks_of(self, entry: Entry, index: int) -> list[Unit]:
        make, seed = entry.factory(self._train), self._task.seed + index
        try:
            runs = Run(entry.method, self._train, make_student=make, seed=seed).runs
        except UNIT_ERRORS:
            # The unit of the set will meet the same error, which then costs its row and not the table.
            return []
        return [] if runs is None else self._task.networks(entry, index, len(runs))

    def _distil(self) -> list[Unit]:
        found = []
        for i, entry in enumerate(self._entries):
            try:
                fitted = fitted_entry(entry, self._train, budget=self._budget, seed=self._task.seed, store=self.store)
            except ArtifactError:
                raise
            except UNIT_ERRORS:
                fitted = entry  # as above: its own unit says what is wrong
            self._entries[i] = fitted
            self._made[i] = [
                self._task.distil(fitted, s, tuple(unit.id for unit in self._needed[i, s])) for s in range(self._sets)
            ]
            found += self._made[i]
        return found

    def _judge(self) -> list[Unit]:
        found: list[Unit] = []
        for i in range(len(self._entries)):
            for distilled, unit in self._there(i):
                for column in COLUMNS[self.table](distilled, self._judging):
                    found += self._trained(column.evaluation, unit)
                    for name in self._baselines:
                        found += self._rival(name, distilled, column.evaluation, unit)
        return [*found, *self._on_all()]

    def _there(self, i: int) -> list[tuple[Distilled, Unit]]:
        """Return the sets of a method that could be made."""
        found = []
        for unit in self._made.get(i, ()):
            result = self.store.read(unit.id)
            if result is not None:
                found.append((set_of(result, self._seconds(unit)), unit))
        return found

    def _trained(self, evaluation: Evaluation, of: Unit, *, centred: bool = False) -> list[Unit]:
        count = 1 if evaluation.learner == "kernel" else evaluation.networks
        return [self._task.judge(evaluation, n, of.id, centred=centred) for n in range(count)]

    def _rival(self, name: str, distilled: Distilled, evaluation: Evaluation, of: Unit) -> list[Unit]:
        """Return what judges the real images that take as many floats as a set, under its protocol."""
        ipc = min(distilled.stored_ipc, *self._train.class_sizes)
        method = BASELINES[name](ipc=ipc, augmentation=evaluation.augmentation)
        # The order of a set is a part of what was learned; that of real images tells their classes. A class for each
        # image is what they store: several methods share what is trained on that.
        labels = evaluation.labels if evaluation.labels == "probabilities" else "stored"
        shuffled = dataclasses.replace(evaluation, order="shuffled", labels=labels)
        entry = Entry(name, method, "convnet", {})
        choice = self._task.distil(entry, int(of.key[0]))
        judges = self._trained(shuffled, choice, centred=wants_centred(distilled, evaluation))
        return [choice, *judges]

    def _on_all(self) -> list[Unit]:
        if self.whole is None:
            return []
        evaluation = self._judging.of(Evaluation.published().changed(epochs=self.whole))
        return [self._task.judge(evaluation, n, None) for n in range(evaluation.networks)]

    def on_all(self) -> Measured | None:
        """Return what networks reach that are trained on all of the data; None where that was not asked for."""
        return self._measured([self._on_all()])

    def rows(self) -> list[TableRow]:
        """Return the rows of what is there by now."""
        return [self._row(i, entry) for i, entry in enumerate(self._entries)]

    def sets(self) -> dict[str, Distilled]:
        """Return the sets that could be made, by a name for each."""
        found = {}
        for i, entry in enumerate(self._entries):
            for distilled, unit in self._there(i):
                found[f"{entry.name}-{entry.method.ipc}-{unit.key[0]}"] = distilled
        return found

    def _row(self, i: int, entry: Entry) -> TableRow:
        told = entry.to_dict()
        shared: dict[str, Any] = {
            "data": self._train.name,
            "ipc": entry.method.ipc,
            "method": entry.name,
            "parameters": told["parameters"],
            "student": told["student"],
        }
        units = [of for unit in self._made.get(i, ()) for of in (unit.id, *unit.needs)]
        failures = dict.fromkeys(f for f in map(self.store.failure, units) if f is not None)
        note = "; ".join(f"{f.error}: {f.message}" for f in failures)
        there = self._there(i)
        if not there:
            return TableRow(**shared, note=note)
        first = there[0][0]
        return TableRow(
            **shared,
            sets=tuple(distilled.content_id for distilled, _ in there),
            images=len(first),
            floats=first.manifest.storage.floats,
            labels=_label_kind(first),
            learned_lr=first.learned_lr is not None,
            teacher=entry.name in _TAUGHT,
            seconds=tuple(self._seconds(unit) for _, unit in there),
            cells=tuple(self._cell(entry, column, there) for column in self._columns(first)),
            note=note,
        )

    def _columns(self, distilled: Distilled) -> Sequence[Column]:
        return COLUMNS[self.table](distilled, self._judging)

    def _cell(self, entry: Entry, column: Column, there: list[tuple[Distilled, Unit]]) -> Cell:
        evaluation, name, ipc = column.evaluation, self._train.name, entry.method.ipc
        rivals = {
            rival: self._measured([self._rival(rival, d, evaluation, u)[1:] for d, u in there])
            for rival in self._baselines
        }
        kind = figure_kind(evaluation, own_protocol(there[0][0]))
        figure = None if kind is None else published(name, entry.name, ipc, kind)
        source = PUBLISHED[name, entry.name].source if figure is not None else ""
        if self.table == "cross-architecture":
            figure = transferred(name, entry.name, ipc, column.name)
        return Cell(
            column=column.name,
            evaluation=evaluation.to_dict(),
            network=evaluation.network_label,
            own=self._measured([self._trained(evaluation, unit) for _, unit in there]),
            baselines={rival: found for rival, found in rivals.items() if found is not None},
            published=figure,
            source=source,
        )

    def _measured(self, sets: list[list[Unit]]) -> Measured | None:
        """Return the accuracies of what is there, for sets that have any."""
        found = []
        for units in sets:
            results = [self.store.read(unit.id) for unit in units]
            accuracies = tuple(accuracy_of(result) for result in results if result is not None)
            found += [accuracies] if accuracies else []
        return Measured(accuracies=tuple(found)) if found else None

    def _seconds(self, unit: Unit) -> float | None:
        """Return what a set took, its networks included; None where nobody knows."""
        took = [self.store.timing(of) for of in (unit.id, *unit.needs)]
        known = [timing.seconds for timing in took if timing is not None]
        return round(sum(known), 1) if len(known) == len(took) else None


def _label_kind(distilled: Distilled) -> str:
    if distilled.label_space == "scores":
        return "scores"
    return distilled.manifest.storage.labels
