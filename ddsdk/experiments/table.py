"""Benchmark tables of the survey: distilled sets, baselines and their accuracies, computed as work units."""

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
from ddsdk.experiments.executors import Executor
from ddsdk.experiments.protocol_columns import COLUMNS, EvaluationCost, ProtocolColumn
from ddsdk.experiments.published import PUBLISHED, TRANSFER, comparable_kind, published
from ddsdk.experiments.units import (
    TableEntry,
    UnitFactory,
    WorkerContext,
    accuracy_of,
    compute_in,
    package_versions,
    set_of,
)
from ddsdk.experiments.worker import UNIT_ERRORS, FinishedUnit
from ddsdk.foundation import ArtifactError, Store, Unit, canonical_json, read_json, strict_json
from ddsdk.judging import baseline_size, needs_centred_labels, stored_protocol
from ddsdk.planning import method_from_parameters
from ddsdk.recipes import IterativeRecipe
from ddsdk.running import Run
from ddsdk.training import TrainingProtocol

_TEACHER_LABELS = frozenset(("sre2l", "rded"))
"""Methods with soft labels of a teacher that was trained on the real data."""


@dataclass(frozen=True, kw_only=True)
class ProtocolAccuracies:
    """Test accuracies of networks that were trained on distilled sets under one protocol.

    Attributes:
        accuracies: Accuracies in 0..1, with a row for each set and an entry for each network.
    """

    accuracies: tuple[tuple[float, ...], ...]

    @property
    def mean(self) -> float:
        """Mean over sets of the mean accuracy over networks."""
        return statistics.fmean(map(statistics.fmean, self.accuracies))

    @property
    def over_networks(self) -> float | None:
        """Sample standard deviation over the networks of a set, root mean square over sets; None for one network."""
        variances = [statistics.variance(row) for row in self.accuracies if len(row) > 1]
        return statistics.fmean(variances) ** 0.5 if variances else None

    @property
    def over_sets(self) -> float | None:
        """Sample standard deviation over sets of the mean accuracy over networks; None for one set."""
        means = [statistics.fmean(row) for row in self.accuracies]
        return statistics.stdev(means) if len(means) > 1 else None


@dataclass(frozen=True, kw_only=True)
class ProtocolResult:
    """Accuracies of a method and of the baselines under one protocol.

    Attributes:
        column: Name of the column of the table.
        protocol: Training protocol as plain values.
        network: Evaluation network with its options, as text.
        own: Accuracies of the distilled sets; None if there are none yet.
        baselines: Accuracies of baselines with an equal storage budget under the same protocol, by name.
        published: Published accuracy in percent; None without a comparable one.
        source: Paper or repository of the published accuracy; empty without one.
    """

    column: str
    protocol: dict[str, Any]
    network: str
    own: ProtocolAccuracies | None
    baselines: dict[str, ProtocolAccuracies]
    published: float | None = None
    source: str = ""


@dataclass(frozen=True, kw_only=True)
class TableRow:
    """Row of a table: one method at one number of images per class.

    Attributes:
        data: Name of the data set.
        ipc: Images per class, the parameter of the method.
        method: Name of the method, a key of `ddsdk.planning.METHODS`.
        parameters: Parameters of the method, by name.
        student: Student network with its options, as plain values.
        sets: Content ids of the distilled sets.
        images: Number of images of a distilled set.
        floats: Number of stored floats of a distilled set, labels and learning rates included.
        labels: Kind of the labels: ``"hard"``, ``"soft"`` or ``"scores"``.
        learned_lr: Whether the set includes a learned learning rate.
        teacher: Whether the labels come from a teacher that was trained on the real data.
        seconds: Wall-clock seconds of each set, training of experts or teachers included; None if unknown.
        cells: Results in the order of the columns.
        note: Error messages of failed units; empty without failures.
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
    cells: tuple[ProtocolResult, ...] = ()
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Measured table, the content of table.json.

    Attributes:
        table: Name of the table, a key of `ddsdk.experiments.protocol_columns.COLUMNS`.
        rows: Rows in the order of the methods.
        whole: Accuracies of networks trained on the full training set; None without them.
        machine: Versions, device and processors of the measurement, as JSON values.
    """

    table: str
    rows: tuple[TableRow, ...]
    whole: ProtocolAccuracies | None = None
    machine: dict[str, Any] = dataclasses.field(default_factory=dict)


def read_table(path: Path) -> Table:
    """Return the table in a file table.json of `ddsdk bench`. Another file is an `ArtifactError` ``"table"``."""
    return read_json(path.read_bytes(), Table, "table", f"{str(path)!r} must hold a table")


class TableProgress(NamedTuple):
    """Progress of the computation of a table.

    Attributes:
        name: Stage of the computation: ``"networks"``, ``"sets"`` or ``"judging"``.
        done: Number of finished units of this stage.
        total: Number of all units of this stage.
        last: Unit that was finished last; None at the start of a stage.
    """

    name: str
    done: int
    total: int
    last: FinishedUnit | None = None


@final
class TableRun:
    """Computation of one table: all distilled sets of all methods, evaluated under all protocols.

    Args:
        table: Name of the table, a key of `ddsdk.experiments.protocol_columns.COLUMNS`.
        entries: Methods with their settings, `ipc` included.
        task: Factory of the work units.
        train: Training data of all methods.
        store: Folder of the store of work units.
        place: Data folder and device of this process.
        sets: Number of distilled sets of each method, with different seeds.
        judging: Limits on the cost of each evaluation.
        budget: Time budget of a distilled set in seconds, training of experts or teachers included; None for the
            methods' own numbers of steps.
        baselines: Names of baselines with an equal storage budget, keys of `ddsdk.baselines.BASELINES`.
        whole: Number of epochs of networks on the full training set, for the table ``fair-scores``; 0 for no such
            networks.

    Examples:
        >>> import ddsdk
        >>> real, cost = ddsdk.load("digits"), EvaluationCost(networks=1, epochs=1, width=4)
        >>> entry = TableEntry("random", ddsdk.BASELINES["random"](ipc=1), "convnet", {})
        >>> factory = UnitFactory(data={"data": "digits"}, fingerprint=real.fingerprint)
        >>> options = {"sets": 1, "judging": cost, "budget": None, "baselines": (), "whole": 0}
        >>> run = TableRun("survey-1", [entry], factory, real, Path("store"), place=WorkerContext(), **options)
        >>> [progress.name for progress in run.run(ddsdk.experiments.InProcess()) if progress.last is not None]
        ['sets', 'judging']
    """

    def __init__(
        self,
        table: str,
        entries: Sequence[TableEntry],
        task: UnitFactory,
        train: RealData,
        store: Path,
        *,
        place: WorkerContext,
        sets: int,
        judging: EvaluationCost,
        budget: float | None,
        baselines: Sequence[str],
        whole: int,
    ) -> None:
        self.table = table
        self.store = Store(store)
        self._entries, self._task, self._train, self._place = list(entries), task, train, place
        self._sets, self._judging, self._budget, self._whole = sets, judging, budget, whole
        self._baselines = list(baselines)
        self._set_units: dict[int, list[Unit]] = {}
        self._network_units: dict[tuple[int, int], list[Unit]] = {}

    def run(self, executor: Executor) -> Iterator[TableProgress]:
        """Yield the progress of the missing units: experts and teachers first, then sets, then evaluations."""
        yield from self._stage("networks", self._networks(), executor)
        yield from self._stage("sets", self._distil(), executor)
        yield from self._stage("judging", self._judge(), executor)

    def _stage(self, name: str, units: list[Unit], executor: Executor) -> Iterator[TableProgress]:
        units = list({unit.id: unit for unit in units}.values())
        yield TableProgress(name, 0, len(units))
        for i, finished in enumerate(executor.run(self.store, units, compute_in(self._place)), 1):
            yield TableProgress(name, i, len(units), finished)

    def _networks(self) -> list[Unit]:
        for i, entry in enumerate(self._entries):
            make = entry.factory(self._train)
            for s in range(self._sets):
                try:
                    runs = Run(entry.method, self._train, make_student=make, seed=self._task.seed + s).runs
                except UNIT_ERRORS:
                    # The unit of the set fails with the same error, which then affects only its row of the table.
                    runs = None
                self._network_units[i, s] = [] if runs is None else self._task.networks(entry, s, len(runs))
        return [unit for units in self._network_units.values() for unit in units]

    def _distil(self) -> list[Unit]:
        for i, entry in enumerate(self._entries):
            try:
                self._entries[i] = fitted = self._fitted(entry)
            except ArtifactError:
                raise
            except UNIT_ERRORS:
                fitted = entry  # as above: the unit of the set fails with the same error
            self._set_units[i] = [
                self._task.distil(fitted, s, tuple(unit.id for unit in self._network_units[i, s]))
                for s in range(self._sets)
            ]
        return [unit for units in self._set_units.values() for unit in units]

    def _fitted(self, entry: TableEntry) -> TableEntry:
        """Return a method with the number of steps that fits the time budget on this machine.

        The number is measured once and stored, so that a stopped table continues with the same sets.

        Raises:
            ArtifactError: If the stored parameters are not those of the method.
        """
        if self._budget is None or not isinstance(entry.method, IterativeRecipe):
            return entry
        budget, seed = self._budget, self._task.seed

        def fit() -> bytes:
            run = Run(entry.method, self._train, make_student=entry.factory(self._train), seed=seed)
            run.fit(budget)
            fitted = run.method
            assert isinstance(fitted, IterativeRecipe)  # fitting does not change the class
            return canonical_json(dataclasses.asdict(fitted))

        conditions = {"budget": budget, "seed": seed, "data": self._train.fingerprint, "versions": package_versions()}
        result, _ = self.store.get_or_compute(Unit("length", {**entry.to_dict(), **conditions}), fit)
        try:
            return entry._replace(method=method_from_parameters(entry.name, strict_json(result)))
        except ValueError as error:
            raise ArtifactError("length", f"the store must hold a length of {entry.name}, got: {error}") from None

    def _judge(self) -> list[Unit]:
        units: list[Unit] = []
        for i in range(len(self._entries)):
            for distilled, unit in self._distilled_sets(i):
                for column in COLUMNS[self.table](distilled, self._judging):
                    units += self._evaluation_units(column.protocol, unit)
                    for name in self._baselines:
                        units += self._baseline_units(name, distilled, column.protocol, unit)
        return [*units, *self._full_data_units()]

    def _distilled_sets(self, i: int) -> list[tuple[Distilled, Unit]]:
        """Return the finished distilled sets of method number i with their units."""
        results = [(self.store.read(unit.id), unit) for unit in self._set_units.get(i, ())]
        return [(set_of(result, self._seconds(unit)), unit) for result, unit in results if result is not None]

    def _evaluation_units(self, protocol: TrainingProtocol, of: Unit, *, centred: bool = False) -> list[Unit]:
        count = protocol.networks if protocol.learner == "network" else 1
        return [self._task.judge(protocol, n, of.id, centred=centred) for n in range(count)]

    def _baseline_units(self, name: str, distilled: Distilled, protocol: TrainingProtocol, of: Unit) -> list[Unit]:
        """Return the units of a baseline with the storage budget of a set: first its selection, then its evaluation."""
        ipc = baseline_size(distilled, self._train)
        method = BASELINES[name](ipc=ipc, augmentation=protocol.augmentation)
        # The stored order of a distilled set is learned; a baseline is sorted by class and has to be shuffled. Its
        # labels are hard in every protocol but "probabilities", so that several methods share the same units.
        labels = protocol.labels if protocol.labels == "probabilities" else "stored"
        shuffled = dataclasses.replace(protocol, order="shuffled", labels=labels)
        selection = self._task.distil(TableEntry(name, method, "convnet", {}), int(of.key[0]))
        centred = needs_centred_labels(distilled, protocol)
        return [selection, *self._evaluation_units(shuffled, selection, centred=centred)]

    def _full_data_units(self) -> list[Unit]:
        if not self._whole:
            return []
        protocol = self._judging.of(TrainingProtocol.published().changed(epochs=self._whole))
        return [self._task.judge(protocol, n, None) for n in range(protocol.networks)]

    def measured(self, machine: dict[str, Any]) -> Table:
        """Return the table of all finished units.

        Args:
            machine: Versions, device and processors of the measurement, as JSON values.
        """
        rows = tuple(self._row(i, entry) for i, entry in enumerate(self._entries))
        whole = self._accuracies([self._full_data_units()])
        return Table(table=self.table, rows=rows, whole=whole, machine=machine)

    def sets(self) -> dict[str, Distilled]:
        """Return the finished distilled sets by name: method, images per class and number of the set."""
        return {
            f"{entry.name}-{entry.method.ipc}-{unit.key[0]}": distilled
            for i, entry in enumerate(self._entries)
            for distilled, unit in self._distilled_sets(i)
        }

    def _row(self, i: int, entry: TableEntry) -> TableRow:
        values = entry.to_dict()
        unit_ids = [unit_id for unit in self._set_units.get(i, ()) for unit_id in (unit.id, *unit.needs)]
        failures = dict.fromkeys(f for f in map(self.store.failure, unit_ids) if f is not None)
        row = TableRow(
            data=self._train.name,
            ipc=entry.method.ipc,
            method=entry.name,
            parameters=values["parameters"],
            student=values["student"],
            note="; ".join(f"{f.error}: {f.message}" for f in failures),
        )
        sets = self._distilled_sets(i)
        if not sets:
            return row
        first = sets[0][0]
        return dataclasses.replace(
            row,
            sets=tuple(distilled.content_id for distilled, _ in sets),
            images=len(first),
            floats=first.manifest.storage.floats,
            labels="scores" if first.label_space == "scores" else first.manifest.storage.labels,
            learned_lr=first.learned_lr is not None,
            teacher=entry.name in _TEACHER_LABELS,
            seconds=tuple(self._seconds(unit) for _, unit in sets),
            cells=tuple(self._cell(entry, column, sets) for column in COLUMNS[self.table](first, self._judging)),
        )

    def _cell(self, entry: TableEntry, column: ProtocolColumn, sets: list[tuple[Distilled, Unit]]) -> ProtocolResult:
        protocol, name, ipc = column.protocol, self._train.name, entry.method.ipc
        baselines = {
            baseline: self._accuracies([self._baseline_units(baseline, d, protocol, u)[1:] for d, u in sets])
            for baseline in self._baselines
        }
        kind = comparable_kind(protocol, stored_protocol(sets[0][0]))
        published_accuracy = None if kind is None else published(name, entry.name, ipc, kind)
        source = PUBLISHED[name, entry.name].source if published_accuracy is not None else ""
        if self.table == "cross-architecture":
            published_accuracy = TRANSFER.get((name, entry.name, ipc), {}).get(column.name)
        return ProtocolResult(
            column=column.name,
            protocol=protocol.to_dict(),
            network=protocol.network_label,
            own=self._accuracies([self._evaluation_units(protocol, unit) for _, unit in sets]),
            baselines={name: accuracies for name, accuracies in baselines.items() if accuracies is not None},
            published=published_accuracy,
            source=source,
        )

    def _accuracies(self, units: list[list[Unit]]) -> ProtocolAccuracies | None:
        """Return the accuracies of the finished units, with a row for each set; None without any."""
        results = [[self.store.read(unit.id) for unit in row] for row in units]
        accuracies = [tuple(accuracy_of(result) for result in row if result is not None) for row in results]
        return ProtocolAccuracies(accuracies=tuple(filter(None, accuracies))) if any(accuracies) else None

    def _seconds(self, unit: Unit) -> float | None:
        """Return the seconds of a distilled set, its experts or teachers included; None if one of them is unknown."""
        timings = [self.store.timing(unit_id) for unit_id in (unit.id, *unit.needs)]
        seconds = [timing.seconds for timing in timings if timing is not None]
        return round(sum(seconds), 1) if len(seconds) == len(timings) else None
