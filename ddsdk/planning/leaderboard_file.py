"""File format of leaderboards, from which `ddsdk distill` chooses a method if none is named.

This module does not import torch, because the choice is made before the command line is parsed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ddsdk.foundation import read_json

LEADERBOARDS_PATH = Path(__file__).with_name("measured.json")
"""Path of the leaderboards that are part of the package."""


@dataclass(frozen=True, kw_only=True)
class TimedAccuracy:
    """Accuracy of a method at one time budget, on held-out training images.

    Attributes:
        time_budget: Time budget in CPU seconds, at which the method was paused and its set evaluated.
        seconds: CPU seconds until the end of the first step that finished after the time budget.
        published: Accuracy, 0..1, under the published protocol with one class for each image.
        own: Accuracy, 0..1, under the method's own protocol and labels; None if they are the published ones.
    """

    time_budget: float
    seconds: float
    published: float
    own: float | None = None


@dataclass(frozen=True, kw_only=True)
class LeaderboardEntry:
    """Accuracy of one method over time.

    Attributes:
        recipe: Name of the method, such as "dm".
        settings: Parameters of the method that differ from their defaults, without ipc.
        kernel: True if the method's own protocol trains a kernel machine instead of a network.
        seeds: Seeds of the runs over which the accuracies are averaged.
        figures: Accuracies at the time budgets; after the end of a short method, that of its final set.
    """

    recipe: str
    settings: dict[str, Any]
    kernel: bool = False
    seeds: tuple[int, ...] = (0,)
    figures: tuple[TimedAccuracy, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Leaderboard:
    """Leaderboard: the accuracy over time of several methods, measured under the same conditions.

    Attributes:
        data: Name of the data set.
        fingerprint: Hash of the training data, see `ddsdk.RealData`.
        ipc: Number of images per class.
        time_budgets: CPU seconds at which methods were paused and evaluated, increasing.
        network: Name of the student network; empty for the network of each method's protocol.
        network_options: Options of the student network, which override those of the protocol.
        held_out: Fraction of the training images that was held out for evaluation.
        threads: Number of CPU threads of the measurement.
        judge_networks: Number of networks trained for each accuracy.
        judge_epochs: Maximum number of epochs under the published protocol; None means no limit.
        judge_width: Width of the evaluation networks; None means that of the protocol.
        versions: Versions of the software by package name.
        entries: Measured methods with their accuracies.
    """

    data: str
    fingerprint: str
    ipc: int
    time_budgets: tuple[float, ...]
    network: str
    network_options: dict[str, Any]
    held_out: float
    threads: int
    judge_networks: int
    judge_epochs: int | None
    judge_width: int | None
    versions: dict[str, str] = field(default_factory=dict)
    entries: tuple[LeaderboardEntry, ...] = ()


@dataclass(frozen=True)
class _LeaderboardFile:
    leaderboards: tuple[Leaderboard, ...]


def read_leaderboards(path: Path = LEADERBOARDS_PATH) -> tuple[Leaderboard, ...]:
    """Return the leaderboards of a file that ``ddsdk winners --out`` wrote, by default that of the package.

    `ddsdk.ArtifactError` with reason ``"measured"`` is raised if the file holds no leaderboards.

    Examples:
        >>> from ddsdk.planning import read_leaderboards
        >>> read_leaderboards()[0].data
        'fashion-mnist'
    """
    rule = f"{str(path)!r} must hold measured curves in the format of ddsdk winners --out"
    return read_json(path.read_bytes(), _LeaderboardFile, "measured", rule).leaderboards
