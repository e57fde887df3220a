"""The tables of the survey: what is asked for, how far it is, and the rows that come out."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from ddsdk.foundation import ArtifactError, clean, strict_json


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
    """What one protocol gave.

    Attributes:
        column: Name of the column.
        evaluation: The protocol, as plain values.
        network: Network with its options.
        own: Of the sets; None where it has failed.
        baselines: Of real images that take as many floats, under the same protocol, by the name of their choice.
        published: Accuracy in percent that was published for this; None where nothing comparable was.
        source: Where that stands.
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
        method: Its name.
        parameters: Its settings.
        student: Network of its students, with options.
        sets: Content ids of the sets.
        images: Images of a set.
        floats: Floats that a set stores, labels and rates included.
        labels: Kind of the labels: hard, soft or scores.
        learned_lr: Whether a learning rate comes with the set.
        teacher: Whether labels come from networks that were trained on the real data.
        seconds: Wall-clock time of each set, the networks that it needs included; None where nobody knows.
        cells: By column.
        note: What went wrong; empty where nothing did.
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
class _Table:
    table: str
    rows: tuple[TableRow, ...]
    whole: Measured | None = None
    machine: dict[str, Any] = dataclasses.field(default_factory=dict)


def read_rows(path: Path) -> Sequence[TableRow]:
    """Return the rows in the table.json of a table.

    Raises:
        ArtifactError: ``"table"``, if the file holds none.
    """
    try:
        return msgspec.convert(strict_json(path.read_bytes()), _Table, strict=True).rows
    except (ValueError, msgspec.ValidationError) as error:
        raise ArtifactError("table", f"{str(path)!r} must hold a table, got: {clean(str(error))}") from None
