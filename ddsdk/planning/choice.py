"""Choice of the most accurate method for a time budget and a kind of labels, from measured leaderboards."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ddsdk.foundation import clean, require, require_count, require_positive
from ddsdk.planning.leaderboard_file import Leaderboard, LeaderboardEntry, TimedAccuracy

LabelKind = Literal["hard", "soft"]
_SUMMARY_LIMIT = 2000
_MAX_DELAY = 1.5
"""Largest ratio of the time of a set to its time budget for which the set is ranked."""


@dataclass(frozen=True)
class Choice:
    """Most accurate method of a leaderboard, and the request for which it was chosen.

    Attributes:
        leaderboard: Leaderboard from which the method was chosen.
        entry: Chosen method with its settings.
        figure: Accuracy of the method at the time budget of the leaderboard.
        kind: Kind of the labels, "hard" or "soft".
        accuracy: Accuracy for this kind of labels, 0..1.
        among: Number of methods that were compared.
        data: Name of the requested data set; None if it was not named.
        ipc: Requested number of images per class.
        budget: Requested time budget in seconds.
    """

    leaderboard: Leaderboard
    entry: LeaderboardEntry
    figure: TimedAccuracy
    kind: LabelKind
    accuracy: float
    among: int
    data: str | None
    ipc: int
    budget: float

    def summary(self) -> str:
        """Return a line with the choice, its reason, and the differences between measurement and request."""
        leaderboard, time_budget = self.leaderboard, f"{self.figure.time_budget:g}"
        images = "1 image" if leaderboard.ipc == 1 else f"{leaderboard.ipc} images"
        differences = [] if self.data in (None, leaderboard.data) else [f"on {leaderboard.data} and not on {self.data}"]
        if self.ipc != leaderboard.ipc:
            differences.append(f"at ipc {leaderboard.ipc} and not {self.ipc}")
        if self.figure.time_budget > self.budget:
            differences.append(f"after {time_budget} s and not {self.budget:g}")
        values = {**self.entry.settings, **leaderboard.network_options}
        settings = ", ".join(f"{name}={value!r}" for name, value in values.items())
        return clean(
            f"taking {self.entry.recipe}: {100 * self.accuracy:.1f} % on held-out images of {leaderboard.data} "
            f"after {time_budget} CPU seconds with {images} per class, the best of {self.among} methods for "
            f"{self.kind} labels"
            + (f" (measured {', '.join(differences)})" if differences else "")
            + f"; with {settings or 'its defaults'}, where you set nothing else; the whole list: ddsdk winners",
            _SUMMARY_LIMIT,
        )


def _accuracy(figure: TimedAccuracy, kind: LabelKind) -> float:
    return figure.published if kind == "hard" or figure.own is None else figure.own


def times_to_accuracy(
    leaderboard: Leaderboard, kind: LabelKind, accuracy: float
) -> list[tuple[float, LeaderboardEntry]]:
    """Return the times after which methods reached an accuracy, with the fastest method first.

    Methods that did not reach the accuracy, and methods whose sets train kernel machines, are left out.

    Args:
        leaderboard: Leaderboard with the measured methods.
        kind: Kind of the labels, "hard" or "soft", see `ranked_methods`.
        accuracy: Accuracy to reach, strictly between 0 and 1.

    Returns:
        Pairs of the time in CPU seconds and the method.

    Examples:
        >>> from ddsdk.planning import read_leaderboards, times_to_accuracy
        >>> rows = times_to_accuracy(read_leaderboards()[0], "hard", 0.7)
        >>> [seconds for seconds, _ in rows] == sorted(seconds for seconds, _ in rows)
        True
    """
    require(0 < accuracy < 1, "accuracy", "lie strictly between 0 and 1", accuracy)
    rows = []
    for entry in leaderboard.entries:
        times = [figure.seconds for figure in entry.figures if _accuracy(figure, kind) >= accuracy]
        if times and not entry.kernel:
            rows.append((min(times), entry))
    return sorted(rows, key=lambda row: (row[0], row[1].recipe))


def ranked_methods(
    leaderboard: Leaderboard, kind: LabelKind, time_budget: float
) -> list[tuple[float, TimedAccuracy, LeaderboardEntry]]:
    """Return the methods with a set at a time budget, with the most accurate method first.

    The accuracy for hard labels is that of the published protocol with one class for each image. The accuracy for soft
    labels is that of the method's own protocol and stored labels. Methods whose sets train kernel machines are left
    out, and so are sets that were finished later than 1.5 times the time budget. Of equally accurate methods the faster
    one comes first.

    Args:
        leaderboard: Leaderboard with the measured methods.
        kind: Kind of the labels, "hard" or "soft".
        time_budget: Time budget in CPU seconds, one of `leaderboard.time_budgets`.

    Returns:
        Accuracy, measurement and method, for each ranked method.

    Examples:
        >>> from ddsdk.planning import ranked_methods, read_leaderboards
        >>> board = read_leaderboards()[0]
        >>> accuracy, figure, entry = ranked_methods(board, "hard", board.time_budgets[0])[0]
        >>> figure.time_budget == board.time_budgets[0]
        True
    """
    rows = [
        (_accuracy(figure, kind), figure, entry)
        for entry in leaderboard.entries
        for figure in entry.figures
        if figure.time_budget == time_budget and not entry.kernel and figure.seconds <= _MAX_DELAY * time_budget
    ]
    return sorted(rows, key=lambda row: (-row[0], row[1].seconds, row[2].recipe))


def nearest_leaderboard(leaderboards: Sequence[Leaderboard], *, ipc: int, data: str | None = None) -> Leaderboard:
    """Return the leaderboard of a data set whose number of images per class is the nearest one, by ratio.

    ValueError is raised if there is none at all.

    Args:
        leaderboards: Measured leaderboards; those of the first data set are used for data that were not measured.
        ipc: Number of images per class.
        data: Name of the data set; None takes that of the first leaderboard.

    Examples:
        >>> from ddsdk.planning import nearest_leaderboard, read_leaderboards
        >>> nearest_leaderboard(read_leaderboards(), ipc=1, data="fashion-mnist").ipc
        1
    """
    require(bool(leaderboards), "leaderboards", "hold measured methods; otherwise name a recipe", "none")
    measured_data = {leaderboard.data for leaderboard in leaderboards}
    data_name = data if data in measured_data else leaderboards[0].data
    candidates = [leaderboard for leaderboard in leaderboards if leaderboard.data == data_name]
    return min(candidates, key=lambda leaderboard: (abs(math.log(leaderboard.ipc / ipc)), leaderboard.ipc))


def choose_methods(
    leaderboards: Sequence[Leaderboard], *, kind: LabelKind, budget: float, ipc: int, data: str | None = None
) -> list[Choice]:
    """Return the most accurate methods at the largest measured time budget that does not exceed `budget`, best first.

    If all measured time budgets exceed `budget`, the smallest one is used. ValueError is raised if no method was
    measured at that time budget.

    Args:
        leaderboards: Measured leaderboards; that of the first data set is used for data that were not measured.
        kind: Kind of the labels for the training of networks, "hard" or "soft", see `ranked_methods`.
        budget: Time budget of the distillation in seconds.
        ipc: Number of images per class; the leaderboard with the nearest number, by ratio, is used.
        data: Name of the data set; None takes that of the first leaderboard.

    Examples:
        >>> from ddsdk.planning import choose_methods, read_leaderboards
        >>> best, *_ = choose_methods(read_leaderboards(), kind="hard", budget=60, ipc=10, data="fashion-mnist")
        >>> best.leaderboard.data, best.figure.time_budget <= 60
        ('fashion-mnist', True)
    """
    require_count("ipc", ipc)
    require_positive("budget", budget)
    leaderboard = nearest_leaderboard(leaderboards, ipc=ipc, data=data)
    time_budget = max(
        (time_budget for time_budget in leaderboard.time_budgets if time_budget <= budget),
        default=leaderboard.time_budgets[0],
    )
    rows = ranked_methods(leaderboard, kind, time_budget)
    rule = "hold a method with a set at the time budget; otherwise name a recipe"
    require(bool(rows), "leaderboards", rule, f"none at {time_budget:g} s on {leaderboard.data}")
    return [
        Choice(leaderboard, entry, figure, kind, accuracy, len(rows), data, ipc, budget)
        for accuracy, figure, entry in rows
    ]
