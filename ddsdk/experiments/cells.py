"""What benchmarks of integrations share: options, cells that are measured once, data to measure on."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import statistics
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar, final

import torch
import tyro

from ddsdk.data import RealData, load_pair
from ddsdk.foundation import generator, readable_json, require, strict_json, write_atomic

D = TypeVar("D")
S = TypeVar("S")


class Loaded(NamedTuple, Generic[D]):
    """The data of a benchmark.

    Attributes:
        shown: What decides which cells there are.
        given: What every cell is measured on.
        identity: What tells this data from other data, JSON values: part of every cell's key.
    """

    shown: D
    given: tuple[Any, ...]
    identity: Mapping[str, Any]


@final
@dataclass(frozen=True, eq=False)
class Question:
    """A cell that is wanted.

    Attributes:
        cell: Dataclass of its row.
        setting: Dataclass of what all cells share.
        measure: From cell, setting, and what the benchmark loaded, such as training and test data, to the answer,
            JSON values.
        line: What to print of a new answer, after the cell.
        about: What else the answer depends on beside the data, JSON values.
    """

    cell: Any
    setting: Any
    measure: Callable[..., dict[str, Any]]
    line: Callable[[dict[str, Any]], str]
    about: Mapping[str, Any] = field(default_factory=dict)

    def answer(self, folder: Path, loaded: Loaded[Any]) -> dict[str, Any]:
        """Return what was measured, now or before; print it if it is new."""
        told = {"cell": dataclasses.asdict(self.cell), "setting": dataclasses.asdict(self.setting)}
        asked = json.dumps({**told, **loaded.identity, **self.about}, sort_keys=True)
        path = folder / f"{hashlib.sha256(asked.encode()).hexdigest()[:24]}.json"
        new = not path.exists()
        if new:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, readable_json(self.measure(self.cell, self.setting, *loaded.given)))
        found: dict[str, Any] = strict_json(path.read_bytes())
        if new:
            print(self.cell, self.line(found), flush=True)  # noqa: T201
        return found


@dataclass(frozen=True, kw_only=True)
class CellTable(ABC, Generic[D]):
    """A table of methods, cell by cell, on data of any kind; the fields are options of its command.

    Attributes:
        data: Name of the data.
        out: Folder of the cells, table.md, cells.json and the plots.
        root: Where named data sets lie.
        methods: Rows, separated by commas; all if empty.
        seeds: Separated by commas.
        threads: CPU threads; None leaves it to torch.
        plots: Draw the plots, which needs matplotlib.
    """

    data: str
    out: Path
    root: str | None = None
    methods: str = ""
    seeds: str = "0"
    threads: int | None = None
    plots: bool = True

    @abstractmethod
    def load(self) -> Loaded[D]:
        """Return the data."""

    @abstractmethod
    def questions(self, shown: D) -> Iterable[Question]:
        """Return the cells.

        Raises:
            ValueError: If an option is bad.
        """

    @abstractmethod
    def table(self, found: Sequence[dict[str, Any]]) -> str:
        """Return the table in markdown."""

    @abstractmethod
    def draw(self, found: Sequence[dict[str, Any]]) -> None:
        """Draw the plots into `out`."""

    @final
    def rows(self, known: Collection[str]) -> list[tuple[str, int]]:
        """Return the methods that are asked for, all of `known` if none is named, each with every seed."""
        methods = known_words("methods", self.methods, known)
        return [(name, seed) for name in methods for seed in numbers("seeds", self.seeds, 0)]

    @final
    def shared(self, kind: type[S]) -> S:
        """Return what all cells share, a dataclass whose fields are options of this command by the same names."""
        return kind(**{one.name: getattr(self, one.name) for one in dataclasses.fields(kind)})  # type: ignore[arg-type]

    @final
    def run(self) -> None:
        """Measure what is missing, and write the results."""
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        loaded = self.load()
        questions = list(self.questions(loaded.shown))
        found = [question.answer(self.out / "cells", loaded) for question in questions]
        table = self.table(found)
        write_atomic(self.out / "cells.json", readable_json({"torch": torch.__version__, "cells": found}))
        write_atomic(self.out / "table.md", table.encode())
        print(table)  # noqa: T201
        if self.plots:
            self.draw(found)


@dataclass(frozen=True, kw_only=True)
class CellBenchmark(CellTable[RealData]):
    """A table of methods on images: cells are measured on training and test data.

    Attributes:
        images: Training images of each class; None for all.
        held_out: Test on so large a part of the training images, and train on the rest; 0 tests on the test set.
    """

    images: int | None = None
    held_out: float = 0.0

    def load(self) -> Loaded[RealData]:
        """Return training and test data, see `ddsdk.load_pair`."""
        train, test = benchmark_data(self.data, root=self.root, held_out=self.held_out, images=self.images)
        return Loaded(train, (train, test), {"train": train.fingerprint, "test": test.fingerprint})


def run_command(kind: type[CellTable[Any]], prog: str) -> int:
    """Run the benchmark that the command line asks for; return the exit status.

    Args:
        kind: The dataclass, whose fields are its options.
        prog: What the command is called.
    """
    try:
        tyro.cli(kind, prog=prog).run()
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 2
    return 0


def words(text: str) -> list[str]:
    """Return what commas separate, without blanks."""
    return [word.strip() for word in text.split(",") if word.strip()]


def known_words(name: str, text: str, known: Collection[str]) -> list[str]:
    """Return what commas separate, all that is known if there is nothing.

    Raises:
        ValueError: If something is unknown.
    """
    found = words(text) or list(known)
    for word in found:
        require(word in known, name, f"be among {', '.join(known)}", word)
    return found


def numbers(name: str, text: str, least: int) -> list[int]:
    """Return whole numbers that commas separate.

    Raises:
        ValueError: If there is none, or one is below `least`.
    """
    found = words(text)
    for word in found:
        ok = word.isdigit() and int(word) >= least
        require(ok, name, f"be whole numbers of at least {least}, separated by commas", text)
    require(bool(found), name, "hold at least one number", text)
    return [int(word) for word in found]


def benchmark_data(
    name: str, *, root: str | None = None, held_out: float = 0.0, images: int | None = None
) -> tuple[RealData, RealData]:
    """Return training images, and what to test on.

    Args:
        name: Of the data, see `ddsdk.load_pair`.
        root: Where named data sets lie.
        held_out: Test on so large a part of the training images; 0 takes the test set.
        images: Training images of each class at most; None for all.
    """
    train, test = load_pair(name, root=root)
    if held_out:
        train, test = train.split(held_out, generator("validation"))
    if images is not None:
        keep = [train.index_of_class(c)[:images] for c in range(train.num_classes)]
        train = train.subset(torch.cat(keep))
    return train, test


def percent(values: Sequence[float]) -> str:
    """Return the mean of shares in %, with the deviation between them where there are several."""
    mean = f"{100 * statistics.fmean(values):.1f}"
    return f"{mean} ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else mean


def by_method(cells: Iterable[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Return answers of a benchmark under the method of their cell, in the order in which methods come up."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for cell in cells:
        found.setdefault(cell["cell"]["method"], []).append(cell)
    return found
