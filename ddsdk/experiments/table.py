"""The tables of the survey: their sets, the baselines beside them, and the rows that come out; all of it in units."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, final

from ddsdk.artefact import Distilled
from ddsdk.baselines import BASELINES
from ddsdk.data import RealData
from ddsdk.experiments.columns import COLUMNS, Column, Judging, own_protocol, wants_centred
from ddsdk.experiments.executors import Executor
from ddsdk.experiments.kinds import Entry, Place, Task, accuracy_of, compute_in, here, set_of
from ddsdk.experiments.published import PUBLISHED, TRANSFER, figure_kind, published
from ddsdk.experiments.worker import UNIT_ERRORS, Done
from ddsdk.foundation import ArtifactError, Store, Unit, canonical_json, read_json, strict_json
from ddsdk.planning import made_of
from ddsdk.recipes import IterativeRecipe
from ddsdk.running import Run
from ddsdk.training import Evaluation

_TAUGHT = frozenset(("sre2l", "rded"))
"""Methods whose labels come from networks that were trained on the real data."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Accuracies of networks that were trained on some sets under one protocol.

    Attributes:
        accuracies: One row for each set, one entry for each network, in 0..1.
    """

    accuracies: tuple[tuple[float, ...], ...]

    @property
    def mean(self) -> float:
        """Mean over sets of the mean over networks."""
        return statistics.fmean(map(statistics.fmean, self.accuracies))

    @property
    def over_networks(self) -> float | None:
        """Sample standard deviation over the networks of a set, as a root mean square over sets; None for one."""
        spreads = [statistics.variance(row) for row in self.accuracies if len(row) > 1]
        return statistics.fmean(spreads) ** 0.5 if spreads else None

    @property
    def over_sets(self) -> float | None:
        """Sample standard deviation over sets of the mean over networks; None for one set."""
        means = [statistics.fmean(row) for row in self.accuracies]
        return statistics.stdev(means) if len(means) > 1 else None


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Result of one protocol.

    Attributes:
        column: Name of the column.
        evaluation: Protocol as plain values.
        network: Network with its options.
        own: Accuracies of the sets; None where there are none.
        baselines: Accuracies of real images that take as many floats, under the same protocol, by name of the baseline.
        published: Accuracy in percent that was published for this; None where nothing comparable was.
        source: Source of that.
    """

    column: str
    evaluation: dict[str, Any]
    network: str
    own: Measured | None
    baselines: dict[str, Measured]
    published: float | None = None
    source: str = ""


@dataclass(frozen=True, kw_only=True)
class TableRow:
    """One method at one number of images per class.

    Attributes:
        data: Name of the data.
        ipc: Images per class that the method was asked for.
        method: Name of the method.
        parameters: Settings of the method.
        student: Network of its students, with options.
        sets: Content ids of the sets.
        images: Images of a set.
        floats: Floats that a set stores, labels and rates included.
        labels: Kind of the labels: hard, soft or scores.
        learned_lr: Whether a learning rate comes with the set.
        teacher: Whether labels come from networks that were trained on the real data.
        seconds: Wall-clock time of each set, the networks that it needs included; None where it is unknown.
        cells: Results by column.
        note: Errors; empty where there are none.
    """

    data: str
    ipc: int
    method: str
    parameters: dict[str, Any]
    student: dict[str, Any]
    sets: tuple[str, ...] = ()
    images: int = 0
    floats: int = 0
    labels: str = ""
    learned_lr: bool = False
    teacher: bool = False
    seconds: tuple[float | None, ...] = ()
    cells: tuple[Cell, ...] = ()
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A measured table; table.json holds its fields.

    Attributes:
        table: A key of `COLUMNS`.
        rows: Rows in the order of the methods.
        whole: Accuracies of networks that are trained on all of the training data; None where there are none.
        machine: Versions and device, JSON values.
    """

    table: str
    rows: tuple[TableRow, ...]
    whole: Measured | None = None
    machine: dict[str, Any] = dataclasses.field(default_factory=dict)


def read_table(path: Path) -> Table:
    """Return the table in a table.json.

    Raises:
        ArtifactError: ``"table"``, if the file holds none.
    """
    return read_json(path.read_bytes(), Table, "table", f"{str(path)!r} must hold a table")


class Wave(NamedTuple):
    """Progress of a table.

    Attributes:
        name: Kind of the work: networks, sets or judging.
        done: Finished units of it.
        total: Number of its units.
        last: Unit that has just been finished; None at the start of a wave.
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
        task: Settings of the units.
        train: Training data.
        store: Folder of the units, the lengths that a budget buys among them.
        place: Data folder and device of this process.
        sets: Distilled sets of each method.
        judging: Cost of a judgement.
        budget: Seconds of a set, networks that it needs included; None leaves methods as they are.
        baselines: Names of baselines that choose real images, as many as take the floats of a set.
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
        sets: int,
        judging: Judging,
        budget: float | None,
        baselines: Sequence[str],
        whole: int,
    ) -> None:
        self.table = table
        self.store = Store(store)
        self._entries, self._task, self._train, self._place = list(entries), task, train, place
        self._sets, self._judging, self._budget, self._whole = sets, judging, budget, whole
        self._baselines = list(baselines)
        self._made: dict[int, list[Unit]] = {}
        self._needed: dict[tuple[int, int], list[Unit]] = {}

    def run(self, executor: Executor) -> Iterator[Wave]:
        """Do what is missing, one wave after another, and give the progress after each unit."""
        yield from self._wave("networks", self._networks(), executor)
        yield from self._wave("sets", self._distil(), executor)
        yield from self._wave("judging", self._judge(), executor)

    def _wave(self, name: str, units: list[Unit], executor: Executor) -> Iterator[Wave]:
        units = list({unit.id: unit for unit in units}.values())
        yield Wave(name, 0, len(units))
        for i, done in enumerate(executor.run(self.store, units, compute_in(self._place)), 1):
            yield Wave(name, i, len(units), done)

    def _networks(self) -> list[Unit]:
        for i, entry in enumerate(self._entries):
            make = entry.factory(self._train)
            for s in range(self._sets):
                try:
                    runs = Run(entry.method, self._train, make_student=make, seed=self._task.seed + s).runs
                except UNIT_ERRORS:
                    # The unit of the set will meet the same error, which then costs its row and not the table.
                    runs = None
                self._needed[i, s] = [] if runs is None else self._task.networks(entry, s, len(runs))
        return [unit for units in self._needed.values() for unit in units]

    def _distil(self) -> list[Unit]:
        for i, entry in enumerate(self._entries):
            try:
                self._entries[i] = fitted = self._fitted(entry)
            except ArtifactError:
                raise
            except UNIT_ERRORS:
                fitted = entry  # as above: its own unit says what is wrong
            self._made[i] = [
                self._task.distil(fitted, s, tuple(unit.id for unit in self._needed[i, s])) for s in range(self._sets)
            ]
        return [unit for units in self._made.values() for unit in units]

    def _fitted(self, entry: Entry) -> Entry:
        """Return a method with as many steps as the budget pays for on this machine.

        A trial takes a few steps once, and the store keeps the length, so that a table that is stopped goes on with the
        same sets.
        """
        if self._budget is None or not isinstance(entry.method, IterativeRecipe):
            return entry
        budget, seed = self._budget, self._task.seed

        def fit() -> bytes:
            run = Run(entry.method, self._train, make_student=entry.factory(self._train), seed=seed)
            run.fit(budget)
            fitted = run.method
            assert isinstance(fitted, IterativeRecipe)  # of the kind that it was
            return canonical_json(dataclasses.asdict(fitted))

        about = {"budget": budget, "seed": seed, "data": self._train.fingerprint, "versions": here()}
        result, _ = self.store.once(Unit("length", {**entry.to_dict(), **about}), fit)
        try:
            return entry._replace(method=made_of(entry.name, strict_json(result)))
        except ValueError as error:
            raise ArtifactError("length", f"the store must hold a length of {entry.name}, got: {error}") from None

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
        results = [(self.store.read(unit.id), unit) for unit in self._made.get(i, ())]
        return [(set_of(result, self._seconds(unit)), unit) for result, unit in results if result is not None]

    def _trained(self, evaluation: Evaluation, of: Unit, *, centred: bool = False) -> list[Unit]:
        count = 1 if evaluation.learner == "kernel" else evaluation.networks
        return [self._task.judge(evaluation, n, of.id, centred=centred) for n in range(count)]

    def _rival(self, name: str, distilled: Distilled, evaluation: Evaluation, of: Unit) -> list[Unit]:
        """Return the choice of real images that take as many floats as a set, and their judges under its protocol."""
        ipc = min(distilled.stored_ipc, *self._train.class_sizes)
        method = BASELINES[name](ipc=ipc, augmentation=evaluation.augmentation)
        # The order of a set is a part of what was learned; that of real images tells their classes. A class for each
        # image is what they store: several methods share what is trained on that.
        labels = evaluation.labels if evaluation.labels == "probabilities" else "stored"
        shuffled = dataclasses.replace(evaluation, order="shuffled", labels=labels)
        choice = self._task.distil(Entry(name, method, "convnet", {}), int(of.key[0]))
        return [choice, *self._trained(shuffled, choice, centred=wants_centred(distilled, evaluation))]

    def _on_all(self) -> list[Unit]:
        if not self._whole:
            return []
        evaluation = self._judging.of(Evaluation.published().changed(epochs=self._whole))
        return [self._task.judge(evaluation, n, None) for n in range(evaluation.networks)]

    def measured(self, machine: dict[str, Any]) -> Table:
        """Return the table of what is there by now, with the versions and device that it shall name."""
        rows = tuple(self._row(i, entry) for i, entry in enumerate(self._entries))
        return Table(table=self.table, rows=rows, whole=self._measured([self._on_all()]), machine=machine)

    def sets(self) -> dict[str, Distilled]:
        """Return the sets that could be made, by a name for each."""
        return {
            f"{entry.name}-{entry.method.ipc}-{unit.key[0]}": distilled
            for i, entry in enumerate(self._entries)
            for distilled, unit in self._there(i)
        }

    def _row(self, i: int, entry: Entry) -> TableRow:
        told = entry.to_dict()
        units = [of for unit in self._made.get(i, ()) for of in (unit.id, *unit.needs)]
        failures = dict.fromkeys(f for f in map(self.store.failure, units) if f is not None)
        row = TableRow(
            data=self._train.name,
            ipc=entry.method.ipc,
            method=entry.name,
            parameters=told["parameters"],
            student=told["student"],
            note="; ".join(f"{f.error}: {f.message}" for f in failures),
        )
        there = self._there(i)
        if not there:
            return row
        first = there[0][0]
        return dataclasses.replace(
            row,
            sets=tuple(distilled.content_id for distilled, _ in there),
            images=len(first),
            floats=first.manifest.storage.floats,
            labels="scores" if first.label_space == "scores" else first.manifest.storage.labels,
            learned_lr=first.learned_lr is not None,
            teacher=entry.name in _TAUGHT,
            seconds=tuple(self._seconds(unit) for _, unit in there),
            cells=tuple(self._cell(entry, column, there) for column in COLUMNS[self.table](first, self._judging)),
        )

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
            figure = TRANSFER.get((name, entry.name, ipc), {}).get(column.name)
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
        results = [[self.store.read(unit.id) for unit in units] for units in sets]
        found = [tuple(accuracy_of(result) for result in row if result is not None) for row in results]
        return Measured(accuracies=tuple(filter(None, found))) if any(found) else None

    def _seconds(self, unit: Unit) -> float | None:
        """Return what a set took, its networks included; None where nobody knows."""
        took = [self.store.timing(of) for of in (unit.id, *unit.needs)]
        known = [timing.seconds for timing in took if timing is not None]
        return round(sum(known), 1) if len(known) == len(took) else None
