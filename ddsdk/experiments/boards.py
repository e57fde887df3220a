"""From measured curves to the boards that `ddsdk distill` chooses a method from."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, fields, replace
from typing import Any

import msgspec

from ddsdk.experiments.curve import RecipeCurve
from ddsdk.foundation import ArtifactError, require
from ddsdk.planning import Board, Entry, Figure


def boards_of(curves: Iterable[RecipeCurve], methods: Mapping[str, type[Any]]) -> tuple[Board, ...]:
    """Return a board for each data set and number of images per class, in the order in which they first come.

    A method that was measured with several seeds and the same settings has one entry, with their mean.

    Args:
        curves: Curves of one plot or of several.
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
        first = boards.setdefault(key, board)
        differing = [f.name for f in fields(Board) if getattr(first, f.name) != getattr(board, f.name)]
        rule = f"be measured alike on {first.data} at ipc {first.ipc}"
        require(not differing, "curves", rule, f"other {', '.join(differing)}")
        settings = _settings(curve, methods[curve.recipe])
        same = msgspec.json.encode([curve.recipe, settings], order="sorted")
        runs.setdefault(key, {}).setdefault(same, []).append(curve)
    require(bool(boards), "curves", "hold at least one curve", [])
    return tuple(
        replace(board, entries=tuple(_entry(same, board.marks, methods[same[0].recipe]) for same in runs[key].values()))
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
        raise ArtifactError("curve", f"the curve of {curve.recipe} must say how it was measured: {error}") from None


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
