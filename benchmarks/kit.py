"""Benchmarks as declarations: methods, a dataclass of settings, axes, table columns and a plot.

A benchmark has one run for each method, seed and value of its axes. Results are stored, so that a stopped benchmark
continues with the missing runs.
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
from ddsdk.foundation import (
    Store,
    Unit,
    canonical_json,
    generator,
    inner_folder,
    readable_json,
    require,
    strict_json,
    write_atomic,
)

S = TypeVar("S")
Result = Mapping[str, Any]
"""Measured values of a run, by name, as JSON values."""


@final
@dataclass(frozen=True)
class RunConfig:
    """Coordinates of one run: method, seed and values of the axes.

    Attributes:
        method: Name of the method, a row of the table.
        seed: Seed of all random numbers of the run.
        at: Values of the axes, by the name of the axis.
    """

    method: str
    seed: int
    at: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, axis: str) -> Any:  # noqa: ANN401 - a number or a word
        """Return the value of an axis."""
        return self.at[axis]

    def __str__(self) -> str:
        """Return the coordinates as one line of text."""
        return ", ".join([self.method, *(f"{k} {v}" for k, v in self.at.items()), f"seed {self.seed}"])


class RunGroup(NamedTuple):
    """Results of runs that differ only by their seed.

    Attributes:
        method: Name of the method, a row of the table.
        at: Values of the axes, by the name of the axis.
        results: Results of the runs, one for each seed.
    """

    method: str
    at: Mapping[str, Any]
    results: Sequence[Result]


class Column(NamedTuple):
    """Column of the table.

    Attributes:
        head: Text in the head of the column.
        text: Function from a group to the text of its cell in this column.
    """

    head: str
    text: Callable[[RunGroup], str]


class Plot(NamedTuple):
    """Plot of a benchmark with a line for each name.

    Attributes:
        file: Name of the image file in the output folder, or a function from a group to this name.
        points: Function from a group to its points (x, y); x is None for a horizontal line.
        x_label: Label of the x axis.
        y_label: Label of the y axis.
        log_x: Whether the x axis is logarithmic.
        joined: Whether the points of a name are connected by a line.
        name: Function from a group to the name of its line in the legend.
    """

    file: str | Callable[[RunGroup], str]
    points: Callable[[RunGroup], Sequence[tuple[float | None, float]]]
    x_label: str
    y_label: str
    log_x: bool = False
    joined: bool = True
    name: Callable[[RunGroup], str] = lambda group: group.method


class Axis(NamedTuple):
    """Axis of the runs beside method and seed, such as images per class. It is an option with several values.

    Attributes:
        default: Default values of the option, separated by commas.
        help: Help text of the option.
        read: Function from one word of the option to its value.
    """

    default: str
    help: str
    read: Callable[[str], Any] = int


class Loaded(NamedTuple):
    """Data of a benchmark.

    Attributes:
        given: Further arguments of `Benchmark.measure`, such as training and test images.
        identity: JSON values that identify the data, such as fingerprints. Stored results of other data are not used.
    """

    given: tuple[Any, ...]
    identity: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of every benchmark.

    Attributes:
        data: Name of the data set.
        out: Folder of the stored results, table.md, cells.json and the plot.
        root: Folder of the named data sets. None: ~/.cache/ddsdk.
        methods: Names of the methods, separated by commas. Default: all methods.
        seeds: Seeds of the runs, separated by commas.
        images: Number of training images of each class. None: all images.
        held_out: Fraction of the training images that replaces the test set, in 0..1. 0: the test set is used.
        threads: Number of CPU threads. None: torch's default.
        plots: Whether the plot is drawn; needs matplotlib.
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
    """Return the training and test images that the options name."""
    train, test = load_pair(options.data, root=options.root)
    if options.held_out:
        train, test = train.split(options.held_out, generator("validation"))
    if options.images is not None:
        train = first_images(train, options.images)
    return Loaded((train, test), {"train": train.fingerprint, "test": test.fingerprint})


def first_images(real: RealData, images: int) -> RealData:
    """Return the data set of the first `images` images of each class."""
    return real.subset(torch.cat([real.index_of_class(c)[:images] for c in range(real.num_classes)]))


def _all_values(method: str, axis: str, values: Sequence[Any]) -> Sequence[Any]:  # noqa: ARG001
    return values


def _no_parameters(run: RunConfig, config: Any) -> Mapping[str, Any]:  # noqa: ANN401, ARG001
    return {}


def _every_run(run: RunConfig) -> bool:  # noqa: ARG001
    return True


def _as_measured(groups: Sequence[RunGroup]) -> Sequence[RunGroup]:
    return groups


@final
@dataclass(frozen=True, kw_only=True)
class Benchmark(Generic[S]):
    """Declaration of a benchmark; `run` is its command.

    Attributes:
        prog: Name of the command, such as ``"python -m benchmarks.graph"``.
        text: Help text of the command.
        config: Frozen dataclass of the settings of all runs. Its fields are options of the command.
        methods: Names of all methods, in the order of the table.
        measure: Function ``(run, config, *data)`` that returns the result of a run.
        columns: Columns of the table after method and axes, or a function from the rows to these columns.
        axes: Axes beside method and seed, by name.
        values: Function ``(method, axis, values)`` that returns the values of an axis for a method.
        keep: Predicate for the runs to measure, for axes that depend on each other.
        rows: Function from the measured groups to the groups of table and plot, for example sorted.
        about: Function ``(run, config)`` that returns further JSON values that determine a result, such as the
            parameters of the method.
        line: Function from a new result to the printed line.
        load: Function from the options to the data.
        plot: Plot of the groups; None for no plot.
        notes: Function from the measured groups to the text below the table; None for no text.
    """

    prog: str
    text: str
    config: type[S]
    methods: Collection[str]
    measure: Callable[..., dict[str, Any]]
    columns: Sequence[Column] | Callable[[Sequence[RunGroup]], Sequence[Column]]
    axes: Mapping[str, Axis] = field(default_factory=dict)
    values: Callable[[str, str, Sequence[Any]], Sequence[Any]] = _all_values
    keep: Callable[[RunConfig], bool] = _every_run
    rows: Callable[[Sequence[RunGroup]], Sequence[RunGroup]] = _as_measured
    about: Callable[[RunConfig, S], Mapping[str, Any]] = _no_parameters
    line: Callable[[Result], str] = str
    load: Callable[[Options], Loaded] = image_data
    plot: Plot | None = None
    notes: Callable[[Sequence[RunGroup]], str] | None = None

    def run(self, argv: Sequence[str] | None = None) -> int:
        """Run the command: measure the missing runs, write and print the table.

        Args:
            argv: Arguments of the command line; None for those of the process.

        Returns:
            Exit code: 0 for success, 2 for an error.
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
        """Return the dataclass of the options: the common ones, the settings and the axes."""
        settings = dataclasses.fields(self.config)  # type: ignore[arg-type]
        fields: list[Any] = [(f.name, f.type, _default(f)) for f in settings]
        fields += [
            (name, Annotated[str, tyro.conf.arg(help=axis.help)], field(default=axis.default))
            for name, axis in self.axes.items()
        ]
        command = make_dataclass("Command", fields, bases=(Options,), frozen=True, kw_only=True)
        command.__doc__ = f"{self.text}\n\nAttributes:\n{_attributes(Options)}\n{_attributes(self.config)}"
        command.__module__ = self.config.__module__  # tyro resolves the annotations of the settings there
        return command

    def measured(self, options: Options, say: Callable[[str], None] = lambda _: None) -> str:
        """Return the table after measuring the runs without a stored result.

        Args:
            options: Instance of the dataclass that `command` returns.
            say: Function that prints a line for each new result.
        """
        if options.threads is not None:
            torch.set_num_threads(options.threads)
        values = {f.name: getattr(options, f.name) for f in dataclasses.fields(self.config)}  # type: ignore[arg-type]
        config = self.config(**values)
        runs, loaded = self.cells(options), self.load(options)
        store, results = Store(inner_folder(options.out, "store")), []
        for run in runs:
            result, kept = store.get_or_compute(self._unit(run, config, loaded), self._compute(run, config, loaded))
            results.append((run, strict_json(result)))
            if not kept:
                say(f"{run}: {self.line(results[-1][1])}")
        groups = _grouped(results)
        rows = self.rows(groups)
        table = self.table(rows, groups)
        records = [{"cell": dataclasses.asdict(run), **result} for run, result in results]
        write_atomic(options.out / "cells.json", readable_json({"torch": torch.__version__, "cells": records}))
        write_atomic(options.out / "table.md", table.encode())
        if options.plots and self.plot is not None:
            self.draw(rows, options.out)
        return table

    def cells(self, options: Options) -> list[RunConfig]:
        """Return the runs that the options name. An unknown method or a bad value is a ValueError."""
        axes = {name: _values(name, getattr(options, name), axis.read) for name, axis in self.axes.items()}
        seeds, runs = _values("seeds", options.seeds, int), []
        for method in known_words("methods", options.methods, self.methods):
            chosen = [self.values(method, name, values) for name, values in axes.items()]
            for row in itertools.product(*chosen):
                runs += [RunConfig(method, seed, dict(zip(axes, row, strict=True))) for seed in seeds]
        return [run for run in runs if self.keep(run)]

    def table(self, rows: Sequence[RunGroup], groups: Sequence[RunGroup]) -> str:
        """Return the markdown table of the rows, followed by the notes. Columns with only dashes are left out.

        Args:
            rows: Groups of the table, a row for each.
            groups: Measured groups for the notes.
        """
        columns = self.columns(rows) if callable(self.columns) else self.columns
        texts = [(column.head, [column.text(row) for row in rows]) for column in columns]
        nonempty = [(head, cells) for head, cells in texts if set(cells) != {"–"}]
        heads = ["method", *self.axes, *(head for head, _ in nonempty)]
        lines = [
            [row.method, *map(_text, row.at.values()), *(cells[i] for _, cells in nonempty)]
            for i, row in enumerate(rows)
        ]
        notes = "" if self.notes is None else self.notes(groups)
        return markdown_table(heads, lines) + (f"\n{notes}" if notes else "")

    def draw(self, rows: Sequence[RunGroup], out: Path) -> None:
        """Write the image files of the plot to the folder `out`."""
        assert self.plot is not None  # checked by the caller
        file, points_of, x_label, y_label, log_x, joined, name = self.plot
        pictures: dict[str, dict[str, list[tuple[float | None, float]]]] = {}
        for row in rows:
            lines = pictures.setdefault(file(row) if callable(file) else file, {})
            if points := points_of(row):
                lines.setdefault(name(row), []).extend(points)
        for picture, lines in pictures.items():
            draw_lines(lines, out / picture, x_label=x_label, y_label=y_label, log_x=log_x, joined=joined)

    def _unit(self, run: RunConfig, config: S, loaded: Loaded) -> Unit:
        description = {
            "benchmark": self.prog,
            "cell": dataclasses.asdict(run),
            "setting": dataclasses.asdict(config),  # type: ignore[call-overload]
            "about": dict(self.about(run, config)),
            **loaded.identity,
        }
        return Unit("cell", strict_json(canonical_json(description)))

    def _compute(self, run: RunConfig, config: S, loaded: Loaded) -> Callable[[], bytes]:
        return lambda: canonical_json(self.measure(run, config, *loaded.given))


def mean_of(head: str, key: str, *, scale: float = 1.0, digits: int = 1) -> Column:
    """Return a column with the mean of a value over seeds and its standard deviation.

    Args:
        head: Text in the head of the column.
        key: Key of the value in the results. Results without it, or with None, are left out. A list of values, such as
            the accuracies of several networks, counts with its mean.
        scale: Factor of the values, such as 100 for percent.
        digits: Number of digits behind the decimal point.
    """

    def text(group: RunGroup) -> str:
        values = [result[key] for result in group.results if result.get(key) is not None]
        means = [statistics.fmean(v) if isinstance(v, list | tuple) else v for v in values]
        if len(values) == 1 and isinstance(values[0], list | tuple):
            # With one seed, the standard deviation is over the networks of its list.
            return mean_text(values[0], scale=scale, digits=digits)
        return mean_text(means, scale=scale, digits=digits)

    return Column(head, text)


def percent_of(head: str, key: str) -> Column:
    """Return a column with the mean over seeds of a fraction in percent, see `mean_of`."""
    return mean_of(head, key, scale=100)


def value_of(head: str, key: str) -> Column:
    """Return a column with a value that does not depend on the seed; a dash for a missing value."""

    def text(group: RunGroup) -> str:
        value = group.results[0].get(key)
        return "–" if value is None else str(value)

    return Column(head, text)


def words(text: str) -> list[str]:
    """Return the words of a comma-separated list."""
    return [word.strip() for word in text.split(",") if word.strip()]


def known_words(name: str, text: str, known: Collection[str]) -> list[str]:
    """Return the words of a comma-separated list, or all valid words for an empty one. Others are a ValueError.

    Args:
        name: Name of the option for the error message.
        text: Words, separated by commas.
        known: All valid words of the option.
    """
    chosen = words(text) or list(known)
    for word in chosen:
        require(word in known, name, f"be among {', '.join(known)}", word)
    return chosen


def _values(name: str, text: str, read: Callable[[str], Any]) -> list[Any]:
    try:
        values = [read(word) for word in words(text)]
    except ValueError as error:
        raise ValueError(f"{name} must hold values separated by commas, got {text!r}: {error}") from None
    require(bool(values), name, "hold at least one value", text)
    return values


def _grouped(results: Iterable[tuple[RunConfig, Result]]) -> list[RunGroup]:
    groups: dict[str, RunGroup] = {}
    for run, result in results:
        key = str((run.method, sorted(run.at.items())))
        group = groups.setdefault(key, RunGroup(run.method, run.at, []))
        groups[key] = group._replace(results=[*group.results, result])
    return list(groups.values())


def _default(setting: dataclasses.Field[Any]) -> Any:  # noqa: ANN401
    if setting.default_factory is not dataclasses.MISSING:
        return field(default_factory=setting.default_factory)
    return field(default=setting.default)


def _attributes(kind: type[Any]) -> str:
    """Return the section Attributes of a dataclass's docstring, which becomes the help of the options."""
    _, _, attributes = inspect.cleandoc(kind.__doc__ or "").partition("Attributes:\n")
    return attributes


def _text(value: Any) -> str:  # noqa: ANN401
    return "–" if value is None else str(value)
