"""Comparison of a set with real images as tables of text, for a terminal and for markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from ddsdk.experiments.rendering import markdown_table
from ddsdk.experiments.set_comparison import COMMON, OWN, PLAIN, RANDOM, SET, MeanAccuracy, SetComparison
from ddsdk.foundation import clean, escape_markdown

_NONE = "–"
_DEFINITIONS = (
    ("HLR", "full training set less the set, both with hard labels under the common protocol; lower is better"),
    ("IOR", "the set less random images with labels of the same kind, under its own protocol; higher is better"),
    ("LRS", "(exp(IOR / 2 - HLR / 2) - 1/e) / (e - 1/e), in 0..1; higher is better"),
    ("ARS", "the same with the mean of IOR with and without augmentation as the exponent; higher is better"),
)


class ComparisonText(NamedTuple):
    """Comparison of a set as text.

    Attributes:
        title: Data, name of the set, number of its images and bytes.
        heads: Heads of the table of accuracies.
        rows: Rows of the table of accuracies, in percent.
        scores: Rows of the table of scores: name, value and definition.
        notes: Sentences on labels, protocols and intervals.
    """

    title: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    scores: tuple[tuple[str, str, str], ...]
    notes: tuple[str, ...]


def comparison_text(comparison: SetComparison) -> ComparisonText:
    """Return a finished comparison as text.

    Args:
        comparison: Comparison whose steps were taken.

    Examples:
        >>> import ddsdk
        >>> from pathlib import Path
        >>> train, test = ddsdk.load_pair("digits")
        >>> distilled = ddsdk.distill(ddsdk.BASELINES["means"](ipc=1), train)
        >>> protocol = ddsdk.TrainingProtocol(name="short", epochs=1, networks=1).changed(options={"width": 4})
        >>> options = {"own": protocol, "common": protocol, "results": Path("compared"), "full_epochs": 1}
        >>> comparison = ddsdk.experiments.SetComparison(distilled, train, test, baselines=["random"], **options)
        >>> _ = list(comparison.steps())
        >>> comparison_text(comparison).heads
        ('accuracy, %', 'set', 'random', 'over random', 's')
    """
    distilled, storage = comparison.distilled, comparison.distilled.manifest.storage
    columns = list(dict.fromkeys((RANDOM, *comparison.baselines)))
    rows = [_row(comparison, setting, columns) for setting in comparison.settings]
    values = [_NONE if value is None else f"{value:.3f}" for value in comparison.ranking]
    images, data = f"{len(distilled)} images, {storage.bytes:,} bytes", clean(comparison.test.name, 60)
    return ComparisonText(
        f"{data}, {clean(comparison.name, 40)}: {images}, {storage.labels} labels",
        ("accuracy, %", SET, *columns, "over random", "s"),
        tuple(rows),
        tuple((name, value, text) for (name, text), value in zip(_DEFINITIONS, values, strict=True)),
        tuple(_notes(comparison)),
    )


def percent(accuracy: MeanAccuracy | None) -> str:
    """Return an accuracy in percent with half of its 95 % confidence interval, such as "45.0 ± 1.2"."""
    if accuracy is None:
        return _NONE
    half = "" if accuracy.half is None else f" ± {100 * accuracy.half:.1f}"
    return f"{100 * accuracy.mean:.1f}{half}"


def _row(comparison: SetComparison, setting: str, columns: Sequence[str]) -> tuple[str, ...]:
    cells = [comparison.accuracy(setting, column) for column in (SET, *columns)]
    own, random = cells[0], cells[1]
    seconds = sum(cell.seconds for cell in cells if cell is not None)
    return (setting, *map(percent, cells), _difference(own, random), f"{seconds:.0f}")


def _difference(own: MeanAccuracy | None, random: MeanAccuracy | None) -> str:
    if own is None or random is None:
        return _NONE
    text = f"{100 * (own.mean - random.mean):+.1f}"
    if own.half is None or random.half is None:
        return text
    return f"{text} ± {100 * math.hypot(own.half, random.half):.1f}"


def _notes(comparison: SetComparison) -> list[str]:
    notes = []
    gains = [_gain(comparison, column) for column in (SET, RANDOM)]
    if None not in gains:
        of_set, of_random = gains
        notes.append(f"own labels and protocol: {of_set:+.1f} points for the set, {of_random:+.1f} for random images")
    full, protocol = comparison.full_accuracy, comparison.full
    if full is not None and protocol is not None:
        network = clean(protocol.network_label, 80)
        notes.append(
            f"full training set: {percent(full)} % after {protocol.epochs} epochs of {network}, {full.seconds:.0f} s"
        )
    if comparison.soft and full is not None:
        notes.append(
            "own protocol, random images: soft labels of the network on the full training set, with the mean entropy of"
            " the labels of the set"
        )
    elif comparison.soft:
        notes.append("no network on the full training set labels random images, so IOR, LRS and ARS are missing")
    notes += [f"{setting}: {_conditions(comparison, setting)}" for setting in comparison.settings]
    ends = f"{min(comparison.seeds)} to {max(comparison.seeds)}" if len(comparison.seeds) > 1 else comparison.seeds[0]
    notes.append(f"± is half of a 95 % interval (Student's t); seeds {ends}, each with new random images")
    if PLAIN not in comparison.settings:
        notes.append("the own protocol has no augmentation, so that ARS has one improvement in the place of two")
    return notes


def _gain(comparison: SetComparison, column: str) -> float | None:
    own, common = comparison.accuracy(OWN, column), comparison.accuracy(COMMON, column)
    return None if own is None or common is None else 100 * (own.mean - common.mean)


def _conditions(comparison: SetComparison, setting: str) -> str:
    protocol = comparison.protocol(setting)
    if protocol.learner != "network":
        return f"{clean(protocol.name, 100)}, {clean(protocol.network_label, 80)}"
    networks = f"{protocol.networks} x {clean(protocol.network_label, 80)}"
    augmentation = protocol.augmentation.replace("_", " ") or "no augmentation"
    return f"{clean(protocol.name, 100)}; {networks}, {protocol.epochs} epochs, loss {protocol.loss}, {augmentation}"


def comparison_markdown(comparison: SetComparison) -> str:
    """Return a finished comparison as markdown: a title, two tables and notes.

    Args:
        comparison: Comparison whose steps were taken.
    """
    text = comparison_text(comparison)
    rows = [(escape_markdown(setting), *cells) for setting, *cells in text.rows]
    parts = [f"**{escape_markdown(text.title, 200)}**\n", markdown_table(text.heads, rows)]
    parts.append(markdown_table(("score", "value", "definition"), text.scores))
    parts.append("".join(f"- {escape_markdown(note, 400)}\n" for note in text.notes))
    return "\n".join(parts)
