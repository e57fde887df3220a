"""`ddsdk bench`: benchmark tables of the survey as work units of a store; `ddsdk worker`: computes such units."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from ddsdk import artefact
from ddsdk.cli.console import err, out, progress
from ddsdk.cli.method_choice import duration
from ddsdk.cli.options import DataOptions, NetworkOptions, check_device, chosen_networks, names, whole_numbers
from ddsdk.foundation import NonNegativeInt, PositiveInt, check_numbers, escape_terminal, inner_folder, require
from ddsdk.planning import configured_methods
from ddsdk.recipes import IterativeRecipe, student_network

if TYPE_CHECKING:
    from ddsdk.data import RealData
    from ddsdk.experiments import Executor, FinishedUnit, TableEntry, TableRun


@dataclass(frozen=True, kw_only=True)
class TableBench(NetworkOptions, DataOptions):
    """Benchmark methods: distil sets, evaluate them beside baselines of equal size and print published accuracies.

    Every distilled set and every evaluated network is a work unit. Finished units are stored, so that a stopped table
    continues with the missing ones, and several processes or machines can compute them.

    Attributes:
        table: Table to compute. survey-1: test accuracy with hard labels under the published protocol, and under the
            method's own protocol. cross-architecture: the published protocol with other networks.
            robustness-to-recipe: the same sets under several augmentations and two optimizers. fair-scores: the scores
            of DD-Ranking in 0..1: hard-label recovery, improvement over random images, LRS and ARS.
        out: Folder of table.md, table.json, table.html and the distilled sets.
        store: Folder of the work units. Default: OUT/store. Tables with the same store share their units.
        recipes: Names of the methods, separated by commas.
        ipc: Numbers of images per class, separated by commas.
        set: Parameter of a method, such as `dm.image_lr=0.5`, that overrides the settings for a small machine. The
            option may be repeated.
        paper: Whether methods use their papers' default parameters, instead of the settings for a small machine and
            annealed learning rates.
        budget: Time budget of a distilled set on this machine, such as 60s, 10m or 1.5h, training of experts or
            teachers included. The number of steps is reduced to fit it.
        sets: Number of distilled sets of each method, with different seeds.
        repeats: Number of networks trained on each set for evaluation.
        judge_epochs: Maximum number of epochs under the published protocol. None: all epochs of the protocol. A
            method's own protocol always keeps its number of epochs.
        judge_width: Width of the evaluation networks. None: the width of the protocol.
        baselines: Baselines of equal storage budget, separated by commas: random, herding, k-means, k-center.
        networks: Networks of the table cross-architecture, separated by commas. Default: the networks of the survey.
        whole_epochs: Number of epochs of networks trained on the full training set, for the table fair-scores. 0: no
            such networks.
        network: Student network. Default: the network of each method's protocol, with its options.
        workers: Number of worker processes, or of CPUs with --engine ray. 0: no worker processes, or all CPUs with ray.
        engine: Executor of the units. local: this machine. ray: tasks of a Ray cluster. shared: only `ddsdk worker`
            processes on the same store.
        ray_address: Address of a running Ray cluster. None: a new cluster on this machine.
        seed: Seed of all random numbers. Set number s of a method has the seed SEED + s.
    """

    table: Literal["survey-1", "cross-architecture", "robustness-to-recipe", "fair-scores"]
    out: Path
    recipes: str
    store: Path | None = None
    ipc: str = "1"
    set: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    paper: bool = False
    budget: str | None = None
    sets: PositiveInt = 1
    repeats: PositiveInt = 3
    judge_epochs: PositiveInt | None = None
    judge_width: PositiveInt | None = None
    baselines: str = "random,k-means"
    networks: str = ""
    whole_epochs: NonNegativeInt = 0
    network: str = ""
    workers: NonNegativeInt = 0
    engine: Literal["local", "ray", "shared"] = "local"
    ray_address: str | None = None
    seed: int = 0

    def run(self) -> int:
        """Return exit code 0 after computing the missing units and writing the table."""
        from ddsdk.baselines import BASELINES
        from ddsdk.experiments import TRANSFER_NETWORKS, EvaluationCost, TableRun, UnitFactory, WorkerContext

        check_numbers(self)
        baselines = names(self.baselines, "baselines", BASELINES)
        transfer = tuple(chosen_networks("networks", self.networks, imports=False)) or TRANSFER_NETWORKS
        judging = EvaluationCost(
            networks=self.repeats, epochs=self.judge_epochs, width=self.judge_width, transfer=transfer
        )
        executor = self._executor()
        budget = None if self.budget is None else duration(self.budget)
        train, _ = self.pair()
        entries = self._entries(train)
        task = UnitFactory(
            data={
                "data": self.data,
                # Results depend neither on the place of the images nor on the number of processes that decode them.
                **{k: v for k, v in self._load_options().items() if k not in ("root", "on_disk", "workers")},
                **({} if self.mirror_safe == "auto" else {"mirror_safe": train.mirror_safe}),
            },
            fingerprint=train.fingerprint,
            seed=self.seed,
            threads=self.threads or 1,
        )
        table = TableRun(
            self.table,
            entries,
            task,
            train,
            self.store or inner_folder(self.out, "store"),
            place=WorkerContext(self.root, self.device),
            sets=self.sets,
            judging=judging,
            budget=budget,
            baselines=baselines,
            whole=self.whole_epochs,
        )
        try:
            self._work(table, executor)
        finally:
            self._write(table)
        return 0

    def _executor(self) -> Executor:
        from ddsdk.experiments import InProcess, Processes, RayTasks, SharedFolder

        if self.engine == "ray":
            return RayTasks(self.ray_address, self.workers or None)
        if self.engine == "shared":
            return SharedFolder()
        return Processes(self.workers) if self.workers else InProcess()

    def _entries(self, train: RealData) -> list[TableEntry]:
        from ddsdk.experiments import TableEntry

        chosen_networks("network", self.network, imports=False)
        chosen, entries = names(self.recipes), []
        require(len(chosen) > 0, "recipes", "name at least one method", self.recipes)
        for ipc in whole_numbers("ipc", self.ipc):
            for name, method in configured_methods(chosen, ipc, self.set, paper=self.paper).items():
                explicit_anneal = any(change.startswith(f"{name}.anneal=") for change in self.set)
                if isinstance(method, IterativeRecipe) and not (self.paper or explicit_anneal):
                    method = dataclasses.replace(method, anneal=True)
                student = student_network(method, train, self.network, self.network_options())
                entries.append(TableEntry(name, method, *student))
        return entries

    def _work(self, table: TableRun, executor: Executor) -> None:
        for name, group in groupby(table.run(executor), key=attrgetter("name")):
            steps = iter(group)
            with progress(name, next(steps).total) as update:
                for step in steps:
                    update(step.done, _unit_label(step.last))
                    failure = None if step.last is None else step.last.failure
                    if failure is not None:
                        err(
                            escape_terminal(f"{_unit_label(step.last)} failed: {failure.error}: {failure.message}", 400)
                        )

    def _write(self, table: TableRun) -> None:
        from ddsdk.experiments import table_html, table_markdown
        from ddsdk.foundation import make_folder, readable_json, write_atomic

        measured, sets = table.measured(self._machine()), table.sets()
        make_folder(self.out)
        text = table_markdown(measured)
        write_atomic(self.out / "table.json", readable_json(dataclasses.asdict(measured)))
        write_atomic(self.out / "table.md", text.encode())
        write_atomic(self.out / "table.html", table_html(f"{self.table}, {self.data}", measured, sets).encode())
        for name, distilled in sets.items():
            folder = inner_folder(self.out, "sets", name)
            saved = (folder / "manifest.json").is_file()
            if not saved or artefact.Distilled.load(folder).content_id != distilled.content_id:
                distilled.save(folder)
        out(text)
        for suffix in ("md", "json", "html"):
            out(str(self.out / f"table.{suffix}"))

    def _machine(self) -> dict[str, Any]:
        """Return the versions, the device and the processors behind the measurements."""
        import platform

        from ddsdk.experiments import package_versions

        return {
            **package_versions(),
            "python": platform.python_version(),
            "device": artefact.device_name(self.device),
            "threads of a unit": self.threads or 1,
            "processors": os.cpu_count() or 1,
        }


def _unit_label(finished: FinishedUnit | None) -> str:
    return "" if finished is None else f"{finished.unit.kind} {finished.unit.id[:8]}"


@dataclass(frozen=True, kw_only=True)
class Worker:
    """Compute work units of a benchmark table. Any number of workers can share the same store.

    A worker runs in a terminal, a Slurm job or a pod with access to the folder of the store. It leases a unit while it
    computes it. If a worker is killed, its lease expires and another worker computes the unit.

    Attributes:
        store: Folder of the work units of `ddsdk bench`, by default OUT/store.
        root: Folder of the named data sets on this machine.
        device: Torch device of all computations: cpu, cuda, cuda:1 ...
        wait: Whether the worker waits for new units after the last one instead of ending.
    """

    store: Path
    root: str | None = None
    device: str = "cpu"
    wait: bool = False

    def run(self) -> int:
        """Return exit code 0 after the last unit."""
        import time

        from ddsdk.experiments import WorkerContext, compute_in, package_versions, work
        from ddsdk.foundation import Store

        check_device(self.device)
        require(self.store.is_dir(), "store", "be the folder of a store", str(self.store))
        store = Store(self.store)
        compute = compute_in(WorkerContext(self.root, self.device))
        while True:
            # Results depend on the versions of ddsdk and torch, so a worker computes only units of its own versions.
            for unit in work(store, compute, wants=lambda unit: unit.config.get("versions") == package_versions()):
                status = "failed: " + unit.failure.message if unit.failure else "done"
                out(escape_terminal(f"{_unit_label(unit)} {status}", 400))
            if not self.wait:
                return 0
            time.sleep(2.0)
