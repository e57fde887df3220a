"""Measured curves in the form that ships with the package: what `ddsdk distill` chooses a method from.

Nothing here needs torch: the choice is made before the options of the command line are known.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from ddsdk.errors import ArtifactError, require
from ddsdk.files import strict_json
from ddsdk.text import clean

if TYPE_CHECKING:
    from ddsdk.bench.curve import RecipeCurve

__all__ = ["MEASURED", "Board", "Entry", "Figure", "boards_of", "read_boards"]

MEASURED = Path(__file__).with_name("measured.json")
"""The curves that ship with the package."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """What a method had at one mark.

    Attributes:
        mark: CPU seconds at which it was paused.
        seconds: CPU seconds that it took: those of the first step that ended behind the mark.
        published: Accuracy of networks that train on a class for each image, under the published protocol.
        own: Accuracy under the method's own protocol and labels; None where that is the same thing.
    """

    mark: float
    seconds: float
    published: float
    own: float | None = None


@dataclass(frozen=True, kw_only=True)
class Entry:
    """The curve of one method.

    Attributes:
        recipe: Name of the method.
        settings: Its parameters that are not the defaults, without ipc.
        kernel: Whether its own protocol is a kernel machine: its sets do not train networks.
        seeds: Seeds of the runs of which the figures are the mean.
        figures: By mark, with one for each mark behind the end of a method that was done before.
    """

    recipe: str
    settings: dict[str, Any]
    kernel: bool = False
    seeds: tuple[int, ...] = (0,)
    figures: tuple[Figure, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Board:
    """Methods that were measured alike.

    Attributes:
        data: Name of the data.
        fingerprint: Of the training data.
        ipc: Images per class.
        marks: CPU seconds at which methods were paused.
        network: Network of the students; empty for the one that each method's protocol names.
        network_options: Options of its builder, above those.
        held_out: Part of the training images that judged.
        threads: CPU threads.
        judge_networks: Networks of each judgement.
        judge_epochs: Their epochs at most, under the published protocol.
        judge_width: Their width.
        versions: Of the software.
        entries: The methods.
    """

    data: str
    fingerprint: str
    ipc: int
    marks: tuple[float, ...]
    network: str
    network_options: dict[str, Any]
    held_out: float
    threads: int
    judge_networks: int
    judge_epochs: int | None
    judge_width: int | None
    versions: dict[str, str] = field(default_factory=dict)
    entries: tuple[Entry, ...] = ()


def read_boards(path: Path = MEASURED) -> tuple[Board, ...]:
    """Return what `ddsdk winners --out` wrote.

    Raises:
        ArtifactError: ``"measured"``, if the file holds no measured curves.
    """
    try:
        found = msgspec.convert(strict_json(path.read_bytes()), dict[str, tuple[Board, ...]], strict=True)
        return found["boards"]
    except (ValueError, KeyError, msgspec.ValidationError) as error:
        rule = "must hold measured curves, as of ddsdk winners --out"
        raise ArtifactError("measured", f"{str(path)!r} {rule}, got: {clean(str(error))}") from None


def boards_of(curves: Iterable[RecipeCurve], methods: Mapping[str, type[Any]]) -> tuple[Board, ...]:
    """Return a board for each data set and number of images per class, in the order in which they first come.

    A method that was measured with several seeds and the same settings has one entry, with their mean.

    Args:
        curves: Of one plot or of several.
        methods: Name to class, for the defaults that an entry leaves out.

    Raises:
        ValueError: If curves of the same data and ipc were not measured alike, a method is unknown, or there is none.
        ArtifactError: ``"curve"``, if a curve does not say how it was measured.
    """
    boards: dict[tuple[str, int], Board] = {}
    runs: dict[tuple[str, int], dict[bytes, list[RecipeCurve]]] = {}
    for curve in curves:
        require(curve.recipe in methods, "curves", f"be of {', '.join(methods)}", curve.recipe)
        board = _board(curve)
        key = board.fingerprint, board.ipc
        _require_alike(boards.setdefault(key, board), board)
        settings = _settings(curve, methods[curve.recipe])
        same = msgspec.json.encode([curve.recipe, settings], order="sorted")
        runs.setdefault(key, {}).setdefault(same, []).append(curve)
    require(bool(boards), "curves", "hold at least one curve", [])
    return tuple(
        replace(
            board,
            entries=tuple(_entry(same, board.marks, methods[same[0].recipe]) for same in runs[key].values()),
        )
        for key, board in boards.items()
    )


def _board(curve: RecipeCurve) -> Board:
    known = curve.conditions
    try:
        return msgspec.convert(
            {
                "data": known["data"]["name"],
                "fingerprint": known["data"]["fingerprint"],
                "ipc": known["parameters"]["ipc"],
                "marks": known["seconds"],
                **{f.name: known[f.name] for f in fields(Board) if f.name in known and f.name != "data"},
            },
            Board,
            strict=True,
        )
    except (KeyError, msgspec.ValidationError) as error:
        raise ArtifactError(
            "curve", f"the curve of {curve.recipe} must say how it was measured: {error}"
        ) from None


def _require_alike(first: Board, other: Board) -> None:
    differing = [f.name for f in fields(Board) if getattr(first, f.name) != getattr(other, f.name)]
    rule = f"be measured alike on {first.data} at ipc {first.ipc}"
    require(not differing, "curves", rule, f"other {', '.join(differing)}")


def _settings(curve: RecipeCurve, method: type[Any]) -> dict[str, Any]:
    usual = {f.name: msgspec.to_builtins(_default(f)) for f in fields(method)}
    given = curve.conditions["parameters"]
    return {n: v for n, v in given.items() if n != "ipc" and (n not in usual or usual[n] != v)}


def _default(known: Field[Any]) -> Any:  # noqa: ANN401
    if known.default_factory is not MISSING:
        return known.default_factory()
    return None if known.default is MISSING else known.default


def _entry(runs: Sequence[RecipeCurve], marks: Sequence[float], method: type[Any]) -> Entry:
    seeds = [int(run.conditions["seed"]) for run in runs]
    require(len(set(seeds)) == len(seeds), "curves", "hold each run once", f"{runs[0].recipe}, seeds {seeds}")
    owns = [point.own for run in runs for point in run.points]
    return Entry(
        recipe=runs[0].recipe,
        settings=_settings(runs[0], method),
        kernel=any(own is not None and own.loss == "ridge" for own in owns),
        seeds=tuple(seeds),
        figures=tuple(found for mark in marks if (found := _figure(runs, mark)) is not None),
    )


def _figure(runs: Sequence[RecipeCurve], mark: float) -> Figure | None:
    """Return the mean at a mark; None unless all runs came that far."""
    points = [point for run in runs if (point := run.at(mark)) is not None]
    if len(points) < len(runs):
        return None
    own = [point.own.mean for point in points if point.own is not None]
    return Figure(
        mark=mark,
        seconds=round(max(point.seconds for point in points), 3),
        published=round(statistics.fmean(point.published.mean for point in points), 5),
        own=round(statistics.fmean(own), 5) if len(own) == len(points) else None,
    )
