"""Benchmarks as declarations: methods, one dataclass of settings, axes, columns and one plot.

A benchmark measures one cell for each method, seed and value of its axes, each once: results lie in a store, so a run
that was stopped goes on where it was.
"""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import statistics
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, make_dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Generic, NamedTuple, TypeVar, final

import torch
import tyro

from ddsdk.data import RealData, load_pair
from ddsdk.experiments import draw_lines, markdown_table, mean_text
from ddsdk.foundation import Store, Unit, canonical_json, generator, readable_json, require, strict_json, write_atomic

S = TypeVar("S")
Result = Mapping[str, Any]
"""Measured values of a cell, JSON values."""


@final
@dataclass(frozen=True)
class Cell:
    """Coordinates of one measurement.

    Attributes:
        method: Name of the method.
        seed: Root of the random numbers of the cell.
        at: Value on each further axis, by the name of the axis.
    """

    method: str
    seed: int
    at: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, axis: str) -> Any:  # noqa: ANN401 - a number or a word
        """Return the value on an axis."""
        return self.at[axis]

    def __str__(self) -> str:
        """Return the coordinates in one line."""
        return ", ".join([self.method, *(f"{k} {v}" for k, v in self.at.items()), f"seed {self.seed}"])


class Group(NamedTuple):
    """Results of the same cell with several seeds.

    Attributes:
        method: Name of the method.
        at: Value on each axis.
        results: One result for each seed.
    """

    method: str
    at: Mapping[str, Any]
    results: Sequence[Result]


class Column(NamedTuple):
    """A column of the table.

    Attributes:
        head: Head of the column.
        text: Function from a group to the text of its cell.
    """

    head: str
    text: Callable[[Group], str]


class Plot(NamedTuple):
    """The plot: a line for each name.

    Attributes:
        file: Name of the picture in the output folder, or a function from a group to the name of its picture.
        points: Function from a group to its points (x, y); x is None for a horizontal line.
        x_label: Label of the x axis.
        y_label: Label of the y axis.
        log_x: Whether x is logarithmic.
        joined: Whether the points of a line are joined.
        name: Function from a group to the name of its line.
    """

    file: str | Callable[[Group], str]
    points: Callable[[Group], Sequence[tuple[float | None, float]]]
    x_label: str
    y_label: str
    log_x: bool = False
    joined: bool = True
    name: Callable[[Group], str] = lambda group: group.method


class Axis(NamedTuple):
    """A further coordinate of the cells, and an option of the command with values separated by commas.

    Attributes:
        default: Values in the form of the option.
        help: Text of the option.
        read: Function from a word to a value.
    """

    default: str
    help: str
    read: Callable[[str], Any] = int


class Loaded(NamedTuple):
    """The data of a benchmark.

    Attributes:
        given: Arguments of `measure` behind cell and setting.
        identity: JSON values that tell this data from other data: part of each result's name.
    """

    given: tuple[Any, ...]
    identity: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options that all benchmarks have.

    Attributes:
        data: Name of the data.
        out: Folder of the store, table.md, cells.json and the plot.
        root: Folder of named data sets; None takes the usual one.
        methods: Methods, separated by commas; all if empty.
        seeds: Seeds, separated by commas.
        images: Training images of each class; None takes all.
        held_out: Part of the training images that tests, in 0..1; 0 tests on the test set.
        threads: CPU threads; None leaves it to torch.
        plots: Whether the plot is drawn, which needs matplotlib.
    """

    data: str
    out: Path
    root: str | None = None
    methods: str = ""
    seeds: str = "0"
    images: int | None = None
    held_out: float = 0.0
    threads: int | None = None
    plots: bool = True


def image_data(options: Options) -> Loaded:
    """Return training and test images, see `ddsdk.load_pair`."""
    train, test = load_pair(options.data, root=options.root)
    if options.held_out:
        train, test = train.split(options.held_out, generator("validation"))
    if options.images is not None:
        train = first_images(train, options.images)
    return Loaded((train, test), {"train": train.fingerprint, "test": test.fingerprint})


def first_images(real: RealData, images: int) -> RealData:
    """Return the first so many images of each class."""
    return real.subset(torch.cat([real.index_of_class(c)[:images] for c in range(real.num_classes)]))


def _all_values(method: str, axis: str, values: Sequence[Any]) -> Sequence[Any]:  # noqa: ARG001
    return values


def _nothing(cell: Cell, setting: Any) -> Mapping[str, Any]:  # noqa: ANN401, ARG001
    return {}


def _every_cell(cell: Cell) -> bool:  # noqa: ARG001
    return True


def _as_measured(groups: Sequence[Group]) -> Sequence[Group]:
    return groups


@final
@dataclass(frozen=True, kw_only=True)
class Benchmark(Generic[S]):
    """The declaration of a benchmark; `run` is its command.

    Attributes:
        prog: Name of the command.
        text: Help text: what is measured beside what.
        setting: Frozen dataclass of what all cells share. Its fields are options of the command.
        methods: Names of the methods.
        measure: Function `(cell, setting, *data)` that returns the result of a cell.
        columns: Columns of the table behind method and axes, or a function from its rows to them.
        axes: Further coordinates of the cells, by name.
        values: Function `(method, axis, values)` that returns the values of an axis for a method.
        keep: Function from a cell to whether it is measured, where values of several axes decide.
        rows: Function from the measured groups to those of table and plot, such as in another order.
        about: Function `(cell, setting)` that returns JSON values of which the result depends beside cell, setting and
            data, such as the parameters of a method.
        line: Function from a new result to the line that is printed of it.
        load: Function that loads the data.
        plot: The plot; None for none.
        notes: Function from the measured groups to text behind the table; None for none.
    """

    prog: str
    text: str
    setting: type[S]
    methods: Collection[str]
    measure: Callable[..., dict[str, Any]]
    columns: Sequence[Column] | Callable[[Sequence[Group]], Sequence[Column]]
    axes: Mapping[str, Axis] = field(default_factory=dict)
    values: Callable[[str, str, Sequence[Any]], Sequence[Any]] = _all_values
    keep: Callable[[Cell], bool] = _every_cell
    rows: Callable[[Sequence[Group]], Sequence[Group]] = _as_measured
    about: Callable[[Cell, S], Mapping[str, Any]] = _nothing
    line: Callable[[Result], str] = str
    load: Callable[[Options], Loaded] = image_data
    plot: Plot | None = None
    notes: Callable[[Sequence[Group]], str] | None = None

    def run(self, argv: Sequence[str] | None = None) -> int:
        """Measure what is missing, write and print the table, and return the exit status.

        Args:
            argv: Words of the command line; None takes those of the process.
        """
        try:
            options = tyro.cli(self.command(), prog=self.prog, args=argv)
            table = self.measured(options, partial(print, flush=True))
        except (ValueError, OSError, ImportError) as error:
            print(f"error: {error}", file=sys.stderr)  # noqa: T201
            return 2
        print(table)  # noqa: T201
        return 0

    def command(self) -> type[Options]:
        """Return the dataclass of all options: the common ones, the settings, and an option for each axis."""
        known = dataclasses.fields(self.setting)  # type: ignore[arg-type]
        fields: list[Any] = [(f.name, f.type, _default(f)) for f in known]
        fields += [
            (name, Annotated[str, tyro.conf.arg(help=axis.help)], field(default=axis.default))
            for name, axis in self.axes.items()
        ]
        made = make_dataclass("Command", fields, bases=(Options,), frozen=True, kw_only=True)
        made.__doc__ = f"{self.text}\n\nAttributes:\n{_attributes(Options)}\n{_attributes(self.setting)}"
        made.__module__ = self.setting.__module__
        return made

    def measured(self, options: Options, say: Callable[[str], None] = lambda _: None) -> str:
        """Return the table, after measuring the cells that no earlier run has left in the store.

        Args:
            options: Of the type that `command` gives.
            say: Function that is called with a line for each new result.
        """
        if options.threads is not None:
            torch.set_num_threads(options.threads)
        values = {f.name: getattr(options, f.name) for f in dataclasses.fields(self.setting)}  # type: ignore[arg-type]
        setting = self.setting(**values)
        cells, loaded = self.cells(options), self.load(options)
        store, found = Store(options.out / "store"), []
        for cell in cells:
            result, kept = store.once(self._unit(cell, setting, loaded), self._compute(cell, setting, loaded))
            found.append((cell, strict_json(result)))
            if not kept:
                say(f"{cell}: {self.line(found[-1][1])}")
        groups = _grouped(found)
        rows = self.rows(groups)
        table = self.table(rows, groups)
        told = [{"cell": dataclasses.asdict(cell), **result} for cell, result in found]
        write_atomic(options.out / "cells.json", readable_json({"torch": torch.__version__, "cells": told}))
        write_atomic(options.out / "table.md", table.encode())
        if options.plots and self.plot is not None:
            self.draw(rows, options.out)
        return table

    def cells(self, options: Options) -> list[Cell]:
        """Return the cells that the options name.

        Raises:
            ValueError: If a word is unknown or no value.
        """
        axes = {name: _values(name, getattr(options, name), axis.read) for name, axis in self.axes.items()}
        seeds, found = _values("seeds", options.seeds, int), []
        for method in known_words("methods", options.methods, self.methods):
            chosen = [self.values(method, name, values) for name, values in axes.items()]
            for row in itertools.product(*chosen):
                found += [Cell(method, seed, dict(zip(axes, row, strict=True))) for seed in seeds]
        return [cell for cell in found if self.keep(cell)]

    def table(self, rows: Sequence[Group], groups: Sequence[Group]) -> str:
        """Return the table of the rows in markdown, with the notes on the measured groups behind it.

        A column that has dashes alone is left out.
        """
        columns = self.columns(rows) if callable(self.columns) else self.columns
        filled = [(column.head, [column.text(row) for row in rows]) for column in columns]
        shown = [(head, texts) for head, texts in filled if set(texts) != {"–"}]
        heads = ["method", *self.axes, *(head for head, _ in shown)]
        lines = [
            [row.method, *map(_word, row.at.values()), *(texts[i] for _, texts in shown)] for i, row in enumerate(rows)
        ]
        notes = "" if self.notes is None else self.notes(groups)
        return markdown_table(heads, lines) + (f"\n{notes}" if notes else "")

    def draw(self, rows: Sequence[Group], out: Path) -> None:
        """Draw the pictures of the plot."""
        assert self.plot is not None  # the caller has asked
        file, points_of, x_label, y_label, log_x, joined, name = self.plot
        pictures: dict[str, dict[str, list[tuple[float | None, float]]]] = {}
        for row in rows:
            lines = pictures.setdefault(file(row) if callable(file) else file, {})
            if points := points_of(row):
                lines.setdefault(name(row), []).extend(points)
        for picture, lines in pictures.items():
            draw_lines(lines, out / picture, x_label=x_label, y_label=y_label, log_x=log_x, joined=joined)

    def _unit(self, cell: Cell, setting: S, loaded: Loaded) -> Unit:
        config = {
            "benchmark": self.prog,
            "cell": dataclasses.asdict(cell),
            "setting": dataclasses.asdict(setting),  # type: ignore[call-overload]
            "about": dict(self.about(cell, setting)),
            **loaded.identity,
        }
        return Unit("cell", strict_json(canonical_json(config)))

    def _compute(self, cell: Cell, setting: S, loaded: Loaded) -> Callable[[], bytes]:
        return lambda: canonical_json(self.measure(cell, setting, *loaded.given))


def mean_of(head: str, key: str, *, scale: float = 1.0, digits: int = 1) -> Column:
    """Return the column of the mean of a value over seeds, with its deviation; a list counts with its mean.

    Args:
        head: Head of the column.
        key: Key of the results. Results without it, or with None, are left out.
        scale: Factor, such as 100 for percent.
        digits: Digits behind the point.
    """

    def text(group: Group) -> str:
        values = [result[key] for result in group.results if result.get(key) is not None]
        means = [statistics.fmean(v) if isinstance(v, list | tuple) else v for v in values]
        if len(values) == 1 and isinstance(values[0], list | tuple):
            # One set: the deviation is that between its networks.
            return mean_text(values[0], scale=scale, digits=digits)
        return mean_text(means, scale=scale, digits=digits)

    return Column(head, text)


def percent_of(head: str, key: str) -> Column:
    """Return the column of the mean of a share of 1 in percent, see `mean_of`."""
    return mean_of(head, key, scale=100)


def value_of(head: str, key: str) -> Column:
    """Return the column of a value that is the same for all seeds; a dash where there is none."""

    def text(group: Group) -> str:
        value = group.results[0].get(key)
        return "–" if value is None else str(value)

    return Column(head, text)


def words(text: str) -> list[str]:
    """Return the words between commas, without blanks."""
    return [word.strip() for word in text.split(",") if word.strip()]


def known_words(name: str, text: str, known: Collection[str]) -> list[str]:
    """Return the words between commas, or all known ones if there is none.

    Raises:
        ValueError: If a word is unknown.
    """
    found = words(text) or list(known)
    for word in found:
        require(word in known, name, f"be among {', '.join(known)}", word)
    return found


def _values(name: str, text: str, read: Callable[[str], Any]) -> list[Any]:
    try:
        found = [read(word) for word in words(text)]
    except ValueError as error:
        raise ValueError(f"{name} must hold values separated by commas, got {text!r}: {error}") from None
    require(bool(found), name, "hold at least one value", text)
    return found


def _grouped(found: Iterable[tuple[Cell, Result]]) -> list[Group]:
    groups: dict[str, Group] = {}
    for cell, result in found:
        key = str((cell.method, sorted(cell.at.items())))
        group = groups.setdefault(key, Group(cell.method, cell.at, []))
        groups[key] = group._replace(results=[*group.results, result])
    return list(groups.values())


def _default(known: dataclasses.Field[Any]) -> Any:  # noqa: ANN401
    if known.default_factory is not dataclasses.MISSING:
        return field(default_factory=known.default_factory)
    return field(default=known.default)


def _attributes(kind: type[Any]) -> str:
    """Return the documented attributes of a dataclass, for the help of an option."""
    _, _, attributes = inspect.cleandoc(kind.__doc__ or "").partition("Attributes:\n")
    return attributes


def _word(value: Any) -> str:  # noqa: ANN401
    return "–" if value is None else str(value)
