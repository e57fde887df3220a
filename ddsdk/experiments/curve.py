"""The records of curves: accuracy against CPU seconds of distillation, and what all curves of a plot share."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from inspect import signature
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import torch

from ddsdk.data import RealData
from ddsdk.foundation import ArtifactError, clean, generator, require, require_count, strict_json
from ddsdk.networks import NETWORKS
from ddsdk.recipes import Recipe, student_network
from ddsdk.training import Evaluation, Score

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """A set that a method had at one time, and what it was worth.

    Attributes:
        mark: The pause that it belongs to, in CPU seconds.
        seconds: CPU seconds of distillation that it took: those of the first step that ended behind the mark.
        step: Outer steps; 0 for a method that has none.
        set: Content id of the set.
        published: Accuracy of ordinary networks that train on a class for each image, under the papers' protocol.
        own: Accuracy under the method's own protocol and labels; None where that is the same thing.
    """

    mark: float
    seconds: float
    step: int
    set: str
    published: Score
    own: Score | None = None


@dataclass(frozen=True, kw_only=True)
class RecipeCurve:
    """The points of one method.

    Attributes:
        recipe: Name of the method.
        family: See `ddsdk.planning.presets.FAMILIES`.
        points: By seconds.
        prepared: CPU seconds before the first step.
        ended: Whether the method was done before the last mark: its last set is then the one for all later marks.
        note: What kept it from later points; empty where nothing did.
        conditions: Everything that the points depend on.
    """

    recipe: str
    family: str
    points: tuple[CurvePoint, ...]
    prepared: float
    ended: bool
    note: str = ""
    conditions: dict[str, Any]

    def at(self, mark: float) -> CurvePoint | None:
        """Return the point of a mark; of a method that was done before, the last one. None if there is none."""
        reached = [p for p in self.points if p.mark == mark or (self.ended and p.mark < mark)]
        return reached[-1] if reached else None


@dataclass(frozen=True, kw_only=True)
class CurveTask:
    """What all methods of one plot share.

    Attributes:
        train: The training data. A part of it is held out for judging and not distilled.
        seconds: CPU seconds of distillation at which a method is paused, rising.
        network: Network of the students; empty for the one that the protocol of the method names, with its options:
            what is learned for one network, such as its rates, is worth little to another.
        network_options: Options of its builder, above those.
        held_out: Part of the training images that judges.
        seed: Root of every random number.
        judge_networks: Fresh networks for each judgement.
        judge_epochs: Epochs under the published protocol where that has more; None for all of them. A protocol of the
            method's own keeps its epochs, which belong to its rates.
        judge_width: Width of the judging network; None for the protocol's.

    Raises:
        ValueError: If a number is out of range, or the data is not on a CPU, whose seconds are counted.
    """

    train: RealData
    seconds: tuple[float, ...]
    network: str = ""
    network_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    held_out: float = 0.1
    seed: int = 0
    judge_networks: int = 1
    judge_epochs: int | None = 300
    judge_width: int | None = 64

    def __post_init__(self) -> None:
        rising = list(self.seconds) == sorted({s for s in self.seconds if 0 < s < math.inf})
        rule = "be positive, finite and rising, at least one of them"
        require(bool(self.seconds) and rising, "seconds", rule, list(self.seconds))
        for name in ("judge_networks", "judge_epochs", "judge_width"):
            if getattr(self, name) is not None:
                require_count(name, getattr(self, name))
        device = self.train.device.type
        require(device == "cpu", "device", "be cpu, whose seconds are counted", device)

    def split(self) -> tuple[RealData, RealData]:
        """Return what is distilled, and what judges: the same images as those of `ddsdk distill --validation`."""
        rest, held = self.train.split(self.held_out, generator("validation"))
        held.name = f"{self.train.name}, held-out training images"
        return rest, held

    def short(self, evaluation: Evaluation, *, epochs: int | None = None) -> Evaluation:
        """Return a protocol with the width and networks of this task, named after what it changes.

        Args:
            evaluation: The protocol; one of a kernel stays as it is.
            epochs: Epochs at most; None for the protocol's.
        """
        if evaluation.learner == "kernel":
            return evaluation
        wide = self.judge_width is not None and "width" in _options_of(evaluation.network)
        return evaluation.changed(
            options={"width": self.judge_width} if wide else {},
            epochs=None if epochs is None else min(epochs, evaluation.epochs),
            networks=self.judge_networks,
        )

    def students(self, method: Recipe) -> tuple[str, dict[str, Any]]:
        """Return the network of a method's students, and the options of its builder."""
        return student_network(method, self.train, self.network, self.network_options)

    def conditions(self, name: str, method: Recipe) -> dict[str, Any]:
        """Return everything that the points of a method depend on, as JSON values."""
        shared = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "train"}
        network, options = self.students(method)
        return {
            **shared,
            "recipe": name,
            "students": {"network": network, "options": options},
            "parameters": dataclasses.asdict(method),
            "seconds": list(self.seconds),
            "network_options": dict(self.network_options),
            "data": {"name": self.train.name, "fingerprint": self.train.fingerprint},
            "threads": torch.get_num_threads(),
            "versions": {"ddsdk": version("ddsdk"), "torch": torch.__version__},
        }


def students_label(method: Recipe, train: RealData, network: str, options: Mapping[str, Any]) -> str:
    """Return what a table calls a method's students; a dash where a kernel is in their place."""
    if method.evaluation(train).learner == "kernel":
        return "–"
    return f"{network} {options['width']}" if "width" in options else network


def _options_of(network: str) -> set[str]:
    return set(signature(NETWORKS[network]).parameters)


def curve_of(result: bytes, where: str) -> RecipeCurve:
    """Return the curve in the result of a unit.

    Raises:
        ArtifactError: ``"curve"``, if the result is none.
    """
    return _read(result, RecipeCurve, where, "a curve")


def read_curves(path: Path) -> tuple[RecipeCurve, ...]:
    """Return the curves of a plot, from the curves.json beside it.

    Raises:
        ArtifactError: ``"curve"``, if the file holds none.
    """
    return _read(path.read_bytes(), _Plot, repr(str(path)), "curves").curves


@dataclass(frozen=True, kw_only=True)
class _Plot:
    curves: tuple[RecipeCurve, ...]


def _read(content: bytes, kind: type[T], where: str, what: str) -> T:
    try:
        return msgspec.convert(strict_json(content), kind, strict=True)
    except (ValueError, msgspec.ValidationError) as error:
        raise ArtifactError("curve", f"{where} must hold {what}, got: {clean(str(error))}") from None
