"""Rate-utility curves: accuracy of distilled sets against the bytes that they are compressed to."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ddsdk.artefact import Distilled
from ddsdk.data import RealData
from ddsdk.experiments.protocol_columns import EvaluationCost
from ddsdk.experiments.rendering import draw_lines, markdown_table, mean_text
from ddsdk.experiments.units import package_versions
from ddsdk.foundation import Store, Unit, escape_markdown, generator, inner_folder, read_json, readable_json, require
from ddsdk.judging import (
    CODEC_FAMILIES,
    BudgetError,
    CompressionTrial,
    TrainingSet,
    compression_steps,
    evaluation_steps,
    in_space_of,
    last_score,
    method_name,
    stored_protocol,
)


@dataclass(frozen=True, kw_only=True)
class BytePoint:
    """Accuracy of a set that was compressed to a number of bytes.

    Attributes:
        recipe: Name of the method of the set.
        set: Content id of the set before its compression.
        budget: Largest number of bytes.
        bytes: Number of bytes of the compressed set.
        images: Number of images of the compressed set.
        codec: Codec with its settings, as text.
        accuracies: Accuracies in 0..1 on held-out images that did not choose the codec, one for each network. Empty if
            no form of the set fits into the budget.
    """

    recipe: str
    set: str
    budget: int
    bytes: int = 0
    images: int = 0
    codec: str = ""
    accuracies: tuple[float, ...] = ()

    @property
    def mean(self) -> float:
        """Mean accuracy over the networks; NaN without networks."""
        return statistics.fmean(self.accuracies) if self.accuracies else math.nan


@dataclass(frozen=True, kw_only=True)
class ByteCurveConfig:
    """Settings of the curves of one plot.

    Attributes:
        train: Training data, of which a part is held out. One half of it chooses the codecs, the other half measures.
        budgets: Numbers of bytes, positive and increasing.
        held_out: Fraction of the training images that is held out, in (0, 1).
        seed: Seed of all random numbers.
        cost: Limits on the networks of each evaluation.
        families: Names of the codecs to try, see `ddsdk.judging.compression_steps`.
    """

    train: RealData
    budgets: tuple[int, ...]
    held_out: float = 0.1
    seed: int = 0
    cost: EvaluationCost = EvaluationCost(networks=1, epochs=300, width=64)  # noqa: RUF009 - a frozen value
    families: tuple[str, ...] = CODEC_FAMILIES

    def __post_init__(self) -> None:
        increasing = list(self.budgets) == sorted({b for b in self.budgets if b > 0})
        require(bool(self.budgets) and increasing, "bytes", "be positive numbers in increasing order", self.budgets)

    def held_out_halves(self) -> tuple[RealData, RealData]:
        """Return the images that choose codecs, and those that measure accuracies."""
        _, held = self.train.split(self.held_out, generator("validation"))
        return held.split(0.5, generator("halves"))


def measure_bytes(folder: Path, sets: Sequence[Distilled], config: ByteCurveConfig) -> Iterator[BytePoint]:
    """Yield the accuracy of each set at each number of bytes; points that were measured before are read.

    Args:
        folder: Folder of the store.
        sets: Distilled sets of the training data, with pixels or packed.
        config: Settings of the curves.

    Examples:
        >>> import ddsdk
        >>> train = ddsdk.load("digits")
        >>> sets = [ddsdk.distill(ddsdk.BASELINES["random"](ipc=1), train)]
        >>> config = ByteCurveConfig(train=train, budgets=(200,), cost=EvaluationCost(networks=1, epochs=1, width=4))
        >>> [point.bytes <= 200 for point in measure_bytes(Path("curves"), sets, config)]
        [True]
    """
    store, halves = Store(inner_folder(folder, "store")), config.held_out_halves()
    for distilled in sets:
        for budget in config.budgets:
            unit = Unit("bytes", _conditions(distilled, budget, config))
            result, _ = store.get_or_compute(unit, partial(_measured, distilled, budget, config, *halves))
            yield read_json(result, BytePoint, "curve", "a point of a curve must hold its accuracy")


def _conditions(distilled: Distilled, budget: int, config: ByteCurveConfig) -> dict[str, Any]:
    return {
        "set": distilled.content_id,
        "budget": budget,
        "held_out": config.held_out,
        "seed": config.seed,
        "families": list(config.families),
        "cost": {name: getattr(config.cost, name) for name in ("networks", "epochs", "width")},
        "data": {"name": config.train.name, "fingerprint": config.train.fingerprint},
        "threads": torch.get_num_threads(),
        "versions": package_versions(),
    }


def _measured(
    distilled: Distilled, budget: int, config: ByteCurveConfig, choosing: RealData, measuring: RealData
) -> bytes:
    point = BytePoint(recipe=method_name(distilled), set=distilled.content_id, budget=budget)
    options: dict[str, Any] = {"protocol": config.cost.of(stored_protocol(distilled)), "seed": config.seed}
    try:
        trials = list(compression_steps(distilled, budget, choosing, families=config.families, **options))
    except BudgetError:
        return readable_json(dataclasses.asdict(point))
    best = max(trials, key=lambda trial: trial.accuracy)
    accuracies = _accuracies(best, measuring, config)
    packed = best.distilled
    point = dataclasses.replace(
        point, bytes=packed.manifest.storage.bytes, images=len(packed), codec=best.codec, accuracies=accuracies
    )
    return readable_json(dataclasses.asdict(point))


def _accuracies(trial: CompressionTrial, measuring: RealData, config: ByteCurveConfig) -> tuple[float, ...]:
    protocol = config.cost.of(stored_protocol(trial.distilled))
    steps = evaluation_steps(
        TrainingSet.of(trial.distilled, protocol), in_space_of(trial.distilled, measuring), rng=generator(config.seed)
    )
    return last_score(steps).accuracies


def best_points(points: Sequence[BytePoint]) -> dict[str, list[BytePoint]]:
    """Return the best point of each method at each budget, by method; a larger budget is never worse.

    Examples:
        >>> point = BytePoint(recipe="dm", set="a", budget=100, bytes=90, accuracies=(0.5,))
        >>> worse = BytePoint(recipe="dm", set="b", budget=200, bytes=190, accuracies=(0.4,))
        >>> [p.budget for p in best_points([point, worse])["dm"]]
        [100]
    """
    curves: dict[str, list[BytePoint]] = {}
    for point in sorted((p for p in points if p.accuracies), key=lambda p: (p.budget, -p.mean)):
        curve = curves.setdefault(point.recipe, [])
        if not curve or (point.budget > curve[-1].budget and point.mean > curve[-1].mean):
            curve.append(point)
    return curves


def frontier(points: Sequence[BytePoint]) -> list[BytePoint]:
    """Return the points of all methods that no smaller set reaches, by increasing bytes."""
    best: list[BytePoint] = []
    for point in sorted((p for p in points if p.accuracies), key=lambda p: (p.bytes, -p.mean)):
        if not best or point.mean > best[-1].mean:
            best.append(point)
    return best


def byte_table(points: Sequence[BytePoint]) -> str:
    """Return a markdown table with the best form of each method at each number of bytes."""
    heads = ["method", "at most, bytes", "bytes", "images", "codec", "held-out accuracy, %"]
    rows = [
        [
            escape_markdown(point.recipe),
            str(point.budget),
            str(point.bytes),
            str(point.images),
            escape_markdown(point.codec),
            mean_text(point.accuracies, scale=100),
        ]
        for curve in best_points(points).values()
        for point in curve
    ]
    return markdown_table(heads, rows)


def draw_byte_curves(points: Sequence[BytePoint], path: Path) -> None:
    """Write a plot of accuracy against bytes, with a line for each method and the frontier of all methods.

    Args:
        points: Points of `measure_bytes`, at least one with an accuracy.
        path: Image file to write; its suffix decides the format.
    """
    lines: dict[str, list[tuple[float | None, float]]] = {}
    for recipe, curve in best_points(points).items():
        lines[recipe] = [(float(point.bytes), 100 * point.mean) for point in curve]
    if len(lines) > 1:
        lines["frontier"] = [(float(point.bytes), 100 * point.mean) for point in frontier(points)]
    draw_lines(lines, path, x_label="bytes of images and labels", y_label="held-out accuracy, %", log_x=True)
