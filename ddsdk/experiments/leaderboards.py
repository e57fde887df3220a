"""Leaderboards from measured curves; `ddsdk distill` chooses a method from them."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, fields, replace
from typing import Any

import msgspec

from ddsdk.experiments.curve import RecipeCurve
from ddsdk.foundation import ArtifactError, require
from ddsdk.planning import Leaderboard, LeaderboardEntry, TimedAccuracy


def leaderboards_of(curves: Iterable[RecipeCurve], methods: Mapping[str, type[Any]]) -> tuple[Leaderboard, ...]:
    """Return a leaderboard for each data set and number of images per class, in the order of the curves.

    Curves of the same method and settings with different seeds become one entry with mean accuracies. Curves of the
    same leaderboard must have equal conditions of measurement; otherwise this is a ValueError. A curve without its
    conditions is an `ArtifactError` ``"curve"``.

    Args:
        curves: Curves of one or several plots, at least one.
        methods: Classes of the methods by name. Parameters with their default value are left out of an entry.

    Examples:
        >>> import pathlib, ddsdk
        >>> from ddsdk.experiments import CurveConfig, measure_curve
        >>> task = CurveConfig(train=ddsdk.load("digits"), seconds=(0.01,), judge_epochs=1, judge_width=4)
        >>> *_, last = measure_curve(pathlib.Path("curves"), "random", ddsdk.BASELINES["random"](ipc=1), task)
        >>> [(board.data, board.ipc) for board in leaderboards_of([last.curve], ddsdk.BASELINES)]
        [('digits', 1)]
    """
    leaderboards: dict[tuple[str, int], Leaderboard] = {}
    runs: dict[tuple[str, int], dict[bytes, list[RecipeCurve]]] = {}
    for curve in curves:
        require(curve.recipe in methods, "curves", f"be of {', '.join(methods)}", curve.recipe)
        leaderboard = _empty_leaderboard(curve)
        key = leaderboard.fingerprint, leaderboard.ipc
        first = leaderboards.setdefault(key, leaderboard)
        differing = [f.name for f in fields(Leaderboard) if getattr(first, f.name) != getattr(leaderboard, f.name)]
        rule = f"be measured under equal conditions on {first.data} at ipc {first.ipc}"
        require(not differing, "curves", rule, f"different {', '.join(name.replace('_', ' ') for name in differing)}")
        settings = _settings(curve, methods[curve.recipe])
        configuration = msgspec.json.encode([curve.recipe, settings], order="sorted")
        runs.setdefault(key, {}).setdefault(configuration, []).append(curve)
    require(bool(leaderboards), "curves", "hold at least one curve", [])
    return tuple(
        replace(
            leaderboard,
            entries=tuple(
                _entry(seeds, leaderboard.time_budgets, methods[seeds[0].recipe]) for seeds in runs[key].values()
            ),
        )
        for key, leaderboard in leaderboards.items()
    )


def _empty_leaderboard(curve: RecipeCurve) -> Leaderboard:
    """Return a leaderboard with the conditions of a curve and without entries.

    Raises:
        ArtifactError: If the curve lacks a condition.
    """
    conditions = curve.conditions
    try:
        return msgspec.convert(
            {
                "data": conditions["data"]["name"],
                "fingerprint": conditions["data"]["fingerprint"],
                "ipc": conditions["parameters"]["ipc"],
                "time_budgets": conditions["seconds"],
                **{
                    f.name: conditions[f.name] for f in fields(Leaderboard) if f.name in conditions and f.name != "data"
                },
            },
            Leaderboard,
            strict=True,
        )
    except (KeyError, msgspec.ValidationError) as error:
        raise ArtifactError(
            "curve", f"the curve of {curve.recipe} must have all conditions of measurement: {error}"
        ) from None


def _settings(curve: RecipeCurve, method: type[Any]) -> dict[str, Any]:
    """Return the parameters of a method that differ from their defaults, without `ipc`."""
    defaults = {f.name: msgspec.to_builtins(_default(f)) for f in fields(method)}
    parameters = curve.conditions["parameters"]
    return {n: v for n, v in parameters.items() if n != "ipc" and (n not in defaults or defaults[n] != v)}


def _default(parameter: Field[Any]) -> Any:  # noqa: ANN401
    if parameter.default_factory is not MISSING:
        return parameter.default_factory()
    return None if parameter.default is MISSING else parameter.default


def _entry(runs: Sequence[RecipeCurve], time_budgets: Sequence[float], method: type[Any]) -> LeaderboardEntry:
    seeds = [int(run.conditions["seed"]) for run in runs]
    require(len(set(seeds)) == len(seeds), "curves", "hold each run once", f"{runs[0].recipe}, seeds {seeds}")
    own_scores = [point.own for run in runs for point in run.points]
    return LeaderboardEntry(
        recipe=runs[0].recipe,
        settings=_settings(runs[0], method),
        kernel=any(score is not None and score.loss == "ridge" for score in own_scores),
        seeds=tuple(seeds),
        figures=tuple(f for time_budget in time_budgets if (f := _mean_accuracy(runs, time_budget)) is not None),
    )


def _mean_accuracy(runs: Sequence[RecipeCurve], time_budget: float) -> TimedAccuracy | None:
    """Return the mean accuracy over seeds at a time budget; None if a seed has no point there."""
    points = [point for run in runs if (point := run.at(time_budget)) is not None]
    if len(points) < len(runs):
        return None
    own = [point.own.mean for point in points if point.own is not None]
    return TimedAccuracy(
        time_budget=time_budget,
        seconds=round(max(point.seconds for point in points), 3),
        published=round(statistics.fmean(point.published.mean for point in points), 5),
        own=round(statistics.fmean(own), 5) if len(own) == len(points) else None,
    )
