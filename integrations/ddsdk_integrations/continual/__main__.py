"""`python -m ddsdk_integrations.continual`: memories of equal bytes on Split-FashionMNIST and its like."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro

import ddsdk as dd
from ddsdk.errors import require
from ddsdk.files import readable_json, strict_json, write_atomic
from ddsdk_integrations.continual.benchmark import LEARNERS, METHODS, Cell, Setting, measure
from ddsdk_integrations.continual.table import markdown, plot

__all__ = ["Benchmark", "main"]


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Learn a stream of class pairs with memories of equal bytes, and print what replay and the memory alone reach.

    A cell that was measured is kept in OUT/cells, so a run that was stopped goes on where it was; two commands with
    other seeds may share a folder, and the same one with all of them then writes the table.

    Attributes:
        data: Name of the data, see `ddsdk distill`.
        out: Folder of the cells, table.md, cells.json and the plots.
        root: Where named data sets lie.
        scenario: class or domain, or both separated by a comma.
        methods: Memories, separated by commas; all if empty.
        ipc: Real images per class whose bytes a memory may take, separated by commas.
        seeds: Separated by commas.
        learners: Networks that learn, separated by commas.
        seconds: For the distillation of each experience.
        epochs: Passes over each experience.
        images: Training images of each class; None for all.
        threads: CPU threads; None leaves it to torch.
        held_out: Test on so large a part of the training images, and train on the rest; 0 tests on the test set.
        plots: Draw the plots, which needs matplotlib.
    """

    data: str
    out: Path
    root: str | None = None
    scenario: str = "class"
    methods: str = ""
    ipc: str = "1,5,10"
    seeds: str = "0,1,2,3,4"
    learners: str = "mlp,lenet"
    seconds: float = 6.0
    epochs: int = 1
    images: int | None = None
    threads: int | None = None
    held_out: float = 0.0
    plots: bool = True

    def run(self) -> None:
        """Measure what is missing, and write the table."""
        wanted = list(self._wanted())
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        train, test = self._data()
        found = [self._measured(cell, setting, train, test) for cell, setting in wanted]
        write_atomic(self.out / "cells.json", readable_json({"torch": torch.__version__, "cells": found}))
        table = markdown(found)
        write_atomic(self.out / "table.md", table.encode())
        print(table)  # noqa: T201
        if self.plots:
            for learner in _words(self.learners):
                plot(found, self.out / f"replay-{learner}.png", learner=learner)
                plot(found, self.out / f"alone-{learner}.png", learner=learner, field="memory_only")

    def _wanted(self) -> Iterator[tuple[Cell, Setting]]:
        methods = _words(self.methods) or list(METHODS)
        for name, words, known in (
            ("methods", methods, METHODS),
            ("learners", _words(self.learners), LEARNERS),
        ):
            for word in words:
                require(word in known, name, f"be among {', '.join(known)}", word)
        numbers, seeds = _numbers("ipc", self.ipc, 1), _numbers("seeds", self.seeds, 0)
        for scenario in _words(self.scenario):
            setting = Setting(scenario=scenario, epochs=self.epochs, seconds=self.seconds)
            for seed in seeds:
                for ipc in numbers:
                    for method in methods:
                        # Without a memory there is nothing that a number of images would change.
                        if method != "naive" or ipc == numbers[0]:
                            yield Cell(method=method, ipc=ipc, seed=seed), setting

    def _data(self) -> tuple[dd.RealData, dd.RealData]:
        train, test = dd.load_pair(self.data, root=self.root)
        if self.held_out:
            train, test = train.split(self.held_out, dd.generator("validation"))
        if self.images is not None:
            keep = [train.index_of_class(c)[: self.images] for c in range(train.num_classes)]
            train = train.subset(torch.cat(keep))
        return train, test

    def _measured(self, cell: Cell, setting: Setting, train: dd.RealData, test: dd.RealData) -> Any:  # noqa: ANN401
        asked = {
            "cell": dataclasses.asdict(cell),
            "setting": dataclasses.asdict(setting),
            "method": repr(METHODS[cell.method]),
            "learners": {name: LEARNERS[name] for name in _words(self.learners)},
            "train": train.fingerprint,
            "test": test.fingerprint,
        }
        key = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:24]
        path = self.out / "cells" / f"{key}.json"
        if path.exists():
            return strict_json(path.read_bytes())
        found = measure(cell, setting, train, test, _words(self.learners))
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, readable_json(found))
        told = {name: round(100 * outcome["accuracy"], 1) for name, outcome in found["learners"].items()}
        print(setting.scenario, cell.ipc, cell.method, cell.seed, told, flush=True)  # noqa: T201
        return found


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _numbers(name: str, text: str, least: int) -> list[int]:
    words = _words(text)
    for word in words:
        ok = word.isdigit() and int(word) >= least
        require(ok, name, f"be whole numbers of at least {least}, separated by commas", text)
    require(bool(words), name, "hold at least one number", text)
    return [int(word) for word in words]


def main() -> int:
    """Run the benchmark of the command line."""
    try:
        tyro.cli(Benchmark, prog="python -m ddsdk_integrations.continual").run()
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
