"""`ddsdk bench --table survey-1` and its like: the survey's tables, cut into units; `ddsdk worker` works on them."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from ddsdk import artefact, networks
from ddsdk.cli.chosen import duration
from ddsdk.cli.console import err, out, progress
from ddsdk.cli.options import DataOptions, NetworkOptions, check_device, names, whole_numbers
from ddsdk.foundation import NonNegativeInt, PositiveInt, check_numbers, escape_terminal, require
from ddsdk.planning import chosen_methods
from ddsdk.recipes import IterativeRecipe, student_network

if TYPE_CHECKING:
    from ddsdk.data import RealData
    from ddsdk.experiments import Done, Entry, Executor, TableRun


@dataclass(frozen=True, kw_only=True)
class TableBench(NetworkOptions, DataOptions):
    """Distil with several methods, judge the sets beside real images of equal size, and print the published figures.

    The table is cut into units: every set and every network that judges one. Each is computed once and kept in the
    store, so a table that was stopped goes on where it was, and its parts can be shared out.

    Attributes:
        table: survey-1: each method under the published protocol with a class for each image, and under its own.
            cross-architecture: the first of these on other networks. robustness-to-recipe: the same set under several
            augmentations and two optimizers. fair-scores: hard-label recovery, improvement over random images, LRS and
            ARS, as fractions.
        out: Folder of table.md, table.json, table.html and the sets.
        store: Folder of the units; OUT/store if not given. Tables that share one share their sets.
        recipes: Methods, separated by commas.
        ipc: Images per class, separated by commas.
        set: A parameter of a method, such as `dm.image_lr=0.5`, above the settings for a small machine. Repeat it for
            others.
        paper: Leave out the settings for a small machine, and the annealing of learning rates.
        budget: Time of a set on this machine, such as 60s, 10m or 1.5h, networks that it needs included: as many steps
            are taken as fit, of those that the method has.
        sets: Distilled sets of each method, each with a seed of its own.
        repeats: Networks that judge each set.
        judge_epochs: Epochs of these, where the published protocol has more; a method's own protocol keeps its own.
        judge_width: Width of these; None for the protocol's.
        baselines: Real images to judge beside each set, separated by commas.
        networks: Networks of the table cross-architecture, separated by commas; those of the survey if empty.
        whole_epochs: Epochs of networks on all of the training data, which fair-scores wants; 0 for none.
        network: Network of the students; empty for the one that the method's protocol names, with its options.
        workers: Processes that share the work; with ray, CPUs of this machine. 0 does all of it in this process.
        engine: local: here. ray: tasks of a Ray cluster. shared: nothing here, but `ddsdk worker` on the store.
        ray_address: Address of a running Ray cluster; one is started here if not given.
        seed: Root of every random number.
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
        """Compute what is missing, and write the table."""
        from ddsdk.baselines import BASELINES
        from ddsdk.experiments import TRANSFER_NETWORKS, Judging, Place, TableRun, Task

        check_numbers(self)
        rivals = names(self.baselines, "baselines", BASELINES)
        transfer = tuple(names(self.networks, "networks", networks.NETWORKS)) or TRANSFER_NETWORKS
        judging = Judging(networks=self.repeats, epochs=self.judge_epochs, width=self.judge_width, transfer=transfer)
        executor = self._executor()
        budget = None if self.budget is None else duration(self.budget)
        train, _ = self.pair()
        entries = self._entries(train)
        task = Task(
            data={
                "data": self.data,
                **{k: v for k, v in self._where().items() if k != "root"},
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
            self.store or self.out / "store",
            place=Place(self.root, self.device),
            sets=self.sets,
            judging=judging,
            budget=budget,
            baselines=rivals,
            whole=self.whole_epochs,
        )
        try:
            self._work(table, executor)
        finally:
            self._write(table)
        return 0

    def _executor(self) -> Executor:
        from ddsdk.experiments import InProcess, Processes, RayTasks, Shared

        if self.engine == "ray":
            return RayTasks(self.ray_address, self.workers or None)
        if self.engine == "shared":
            return Shared()
        return Processes(self.workers) if self.workers else InProcess()

    def _entries(self, train: RealData) -> list[Entry]:
        from ddsdk.experiments import Entry

        names(self.network, "network", networks.NETWORKS)
        chosen, found = names(self.recipes), []
        require(len(chosen) > 0, "recipes", "name at least one method", self.recipes)
        for ipc in whole_numbers("ipc", self.ipc):
            for name, method in chosen_methods(chosen, ipc, self.set, paper=self.paper).items():
                set_by_hand = any(change.startswith(f"{name}.anneal=") for change in self.set)
                if isinstance(method, IterativeRecipe) and not (self.paper or set_by_hand):
                    method = dataclasses.replace(method, anneal=True)
                student = student_network(method, train, self.network, self.network_options())
                found.append(Entry(name, method, *student))
        return found

    def _work(self, table: TableRun, executor: Executor) -> None:
        for name, group in groupby(table.run(executor), key=attrgetter("name")):
            waves = iter(group)
            with progress(name, next(waves).total) as update:
                for wave in waves:
                    update(wave.done, _told(wave.last))
                    failure = None if wave.last is None else wave.last.failure
                    if failure is not None:
                        err(escape_terminal(f"{_told(wave.last)} failed: {failure.error}: {failure.message}", 400))

    def _write(self, table: TableRun) -> None:
        from ddsdk.experiments import table_html, table_markdown
        from ddsdk.foundation import readable_json, write_atomic

        measured, sets = table.measured(self._machine()), table.sets()
        self.out.mkdir(parents=True, exist_ok=True)
        text = table_markdown(measured)
        write_atomic(self.out / "table.json", readable_json(dataclasses.asdict(measured)))
        write_atomic(self.out / "table.md", text.encode())
        write_atomic(self.out / "table.html", table_html(f"{self.table}, {self.data}", measured, sets).encode())
        for name, distilled in sets.items():
            folder = self.out / "sets" / name
            there = (folder / "manifest.json").is_file()
            if not there or artefact.Distilled.load(folder).content_id != distilled.content_id:
                distilled.save(folder)
        out(text)
        for suffix in ("md", "json", "html"):
            out(str(self.out / f"table.{suffix}"))

    def _machine(self) -> dict[str, Any]:
        """Return what a reader of figures wants to know about where they come from."""
        import platform

        from ddsdk.experiments import here

        return {
            **here(),
            "python": platform.python_version(),
            "device": artefact.device_name(self.device),
            "threads of a unit": self.threads or 1,
            "processors": os.cpu_count() or 1,
        }


def _told(done: Done | None) -> str:
    return "" if done is None else f"{done.unit.kind} {done.unit.id[:8]}"


@dataclass(frozen=True, kw_only=True)
class Worker:
    """Work on the units of a store, beside any number of others, until nothing is left to do.

    Start one in each terminal, Slurm job or pod that sees the folder. A unit is leased for as long as its worker lives;
    one that was killed costs what it was at.

    Attributes:
        store: Folder of the units of a table, OUT/store if it was not named.
        root: Folder of named data sets on this machine.
        device: cpu, cuda, cuda:1 ...
        wait: Stay when nothing is left, for what will be asked for later.
    """

    store: Path
    root: str | None = None
    device: str = "cpu"
    wait: bool = False

    def run(self) -> int:
        """Work."""
        import time

        from ddsdk.experiments import Place, compute_in, here, work
        from ddsdk.foundation import Store

        check_device(self.device)
        require(self.store.is_dir(), "store", "be the folder of a store", str(self.store))
        store = Store(self.store)
        compute = compute_in(Place(self.root, self.device))
        while True:
            for done in work(store, compute, wants=lambda unit: unit.config.get("versions") == here()):
                told = "failed: " + done.failure.message if done.failure else "done"
                out(escape_terminal(f"{_told(done)} {told}", 400))
            if not self.wait:
                return 0
            time.sleep(2.0)
