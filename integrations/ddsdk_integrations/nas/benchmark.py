"""What proxies of all kinds say of the same candidates: each cell is one ranking."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import ddsdk as dd
from ddsdk.experiments import Executor
from ddsdk.foundation import readable_json, require_count, strict_json, write_atomic
from ddsdk_integrations.nas.cells import Cell as Cell201
from ddsdk_integrations.nas.cells import read_accuracies
from ddsdk_integrations.nas.narrow import Parts, Setting, plain
from ddsdk_integrations.nas.proxies import Proxy, distilled_proxy, early_stopping
from ddsdk_integrations.nas.ranking import Ranking, rank
from ddsdk_integrations.nas.space import AnyOf
from ddsdk_integrations.nas.untrained import GradientNorm, NasWot, ParameterCount, SynFlow

TRUTH = "truth"
_PACKAGED = "fashion_mnist_truth.json"
_POOL = 24
_IMAGES = 64


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One ranking.

    Attributes:
        method: A key of `METHODS`, or ``"truth"``.
        ipc: Images per class of a set; 0 for other methods.
        students: Which networks a recipe sees, see `STUDENTS`; empty where it sees none.
        steps: Of the training of a candidate; 0 for none, or for the truth.
        repeats: Scores of each candidate.
        seed: Of the set.
    """

    method: str
    ipc: int = 0
    students: str = ""
    steps: int = 0
    repeats: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("ipc", "steps", "seed"):
            require_count(name, getattr(self, name), least=0)
        require_count("repeats", self.repeats)


@dataclass(frozen=True, kw_only=True)
class Method:
    """A kind of proxy.

    Attributes:
        make: From images per class to the recipe or baseline of a set.
        untrained: From the parts to a proxy that trains nothing.
        largest: Images per class up to which it is measured with each kind of students, ``""`` for none.
    """

    make: Callable[[int], Any] | None = None
    untrained: Callable[[Parts], Proxy] | None = None
    largest: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a ranking is made; nothing of it changes a score on one kind of device.

    Attributes:
        folder: Of units of work and sets.
        executor: Who works.
        device: Where candidates train.
        accuracies: Table of cells, see `read_accuracies`, that is the truth; None measures one.
        column: Of the table.
        fresh_truth: Measure the truth also where it comes with the package.
    """

    folder: Path
    executor: Executor
    device: str = "cpu"
    accuracies: Path | None = None
    column: str = "cifar10"
    fresh_truth: bool = False


def _batch(parts: Parts) -> dd.Batch:
    return parts.train.mixed(_IMAGES, dd.generator("nas", "untrained"))


def _dm(ipc: int) -> dd.DM:
    return dd.DM(ipc=ipc, steps=300, real_batch=64, augmentation="", image_lr=0.1 * ipc)


METHODS: dict[str, Method] = {
    "parameters": Method(untrained=lambda _: ParameterCount()),
    "synflow": Method(untrained=lambda parts: SynFlow(parts.train.image_shape)),
    "naswot": Method(untrained=lambda parts: NasWot(_batch(parts).x)),
    "gradient norm": Method(untrained=lambda parts: GradientNorm(_batch(parts))),
    "early stopping": Method(),
    "random": Method(make=lambda ipc: dd.BASELINES["random"](ipc=ipc), largest={"": 50}),
    "herding": Method(make=lambda ipc: dd.BASELINES["herding"](ipc=ipc), largest={"": 10}),
    "dm": Method(make=lambda ipc: _dm(ipc), largest={"one": 50, "many": 10}),
    # About the norm that the gradients of the field's ConvNet-3 have at the start.
    "dm-clipped": Method(make=lambda ipc: dataclasses.replace(_dm(ipc), clip_norm=2.0), largest={"many": 50}),
    "dsa": Method(
        make=lambda ipc: dd.DSA(
            ipc=ipc, students=20, steps_per_student=10, student_epochs=2, real_batch=64, augmentation=""
        ),
        largest={"one": 10, "many": 10},
    ),
    "rat-bptt": Method(
        make=lambda ipc: dd.RaTBPTT(
            ipc=ipc,
            steps=150,
            student_steps=20,
            window=5,
            student_lr=3e-3,
            image_lr=0.01,
            real_batch=256,
            augmentation="",
        ),
        largest={"one": 10, "many": 10},
    ),
}
"""Rows of the table. Recipes are short runs of what they are, and see no augmentation, for candidates see none."""

STUDENTS: dict[str, Callable[[Setting, dd.RealData], Any]] = {
    "one": lambda setting, data: dd.network_factory(
        "convnet", data.image_shape, data.num_classes, width=setting.widths[-2]
    ),
    "many": lambda setting, data: AnyOf(tuple(one.make for one in setting.drawn(data, _POOL, "pool"))),
}
"""The field's ConvNet-3 with instance norm and average pooling, or 24 architectures that are drawn from the space."""


def described(cell: Cell) -> dict[str, Any]:
    """Return what a cell's method is, for its key."""
    if cell.method == TRUTH or METHODS[cell.method].make is None:
        return {}
    made = _made(cell)
    return {"class": type(made).__name__, **asdict(made)}


def _made(cell: Cell) -> Any:  # noqa: ANN401
    make = METHODS[cell.method].make
    assert make is not None  # callers have looked
    return make(cell.ipc)


def measure(cell: Cell, setting: Setting, train: dd.RealData, test: dd.RealData, place: Place) -> dict[str, Any]:
    """Rank all candidates by one proxy and return the ranking, JSON values.

    Args:
        cell: Which proxy.
        setting: What all share.
        train: Training images.
        test: Test images: only the truth looks at them.
        place: Where and by whom.
    """
    ranking = _known_truth(setting, place, train, test) if cell.method == TRUTH else None
    ranking = ranking or _ranked(cell, setting, place, setting.parts(train.to(place.device), test.to(place.device)))
    told = {"cell": asdict(cell), "setting": plain(setting), "classes": train.num_classes}
    return {**told, "ranking": ranking.to_dict()}


def _known_truth(setting: Setting, place: Place, train: dd.RealData, test: dd.RealData) -> Ranking | None:
    if place.accuracies is None:
        return None if place.fresh_truth else cached_truth(setting, train, test)
    known = read_accuracies(place.accuracies, place.column)
    names = [one.name for one in setting.chosen(setting.parts(train, test).train)]
    return Ranking(name=TRUTH, scores={name: (known[Cell201.parse(name)],) for name in names})


def cached_truth(setting: Setting, train: dd.RealData, test: dd.RealData) -> Ranking | None:
    """Return the truth that comes with the package, if it was measured in this setting on these images.

    Args:
        setting: Must be the same in every field.
        train: Training images.
        test: Test images.
    """
    kept = strict_json((files("ddsdk_integrations.nas") / _PACKAGED).read_bytes())
    if {name: kept.get(name) for name in ("setting", "train", "test")} != setting.told(train, test):
        return None
    return Ranking.from_dict(kept["ranking"])


def _ranked(cell: Cell, setting: Setting, place: Place, parts: Parts) -> Ranking:
    return rank(
        setting.chosen(parts.train),
        _proxy(cell, setting, place, parts),
        seed=dd.generator("nas", TRUTH if cell.method == TRUTH else "proxies"),
        seeds=cell.repeats,
        store=place.folder / "units",
        executor=place.executor,
        name=cell.method,
        wall_clock=place.device != "cpu",
    )


def _proxy(cell: Cell, setting: Setting, place: Place, parts: Parts) -> Proxy:
    if cell.method == TRUTH:
        return early_stopping(parts.train, parts.held_out, evaluation=setting.evaluation, test=parts.test)
    method = METHODS[cell.method]
    if method.untrained is not None:
        return method.untrained(parts)
    if method.make is None:
        return early_stopping(parts.train, parts.held_out, evaluation=setting.evaluation, steps=cell.steps)
    distilled, seconds = _kept_set(cell, setting, place, parts.train)
    return distilled_proxy(
        distilled,
        parts.held_out,
        evaluation=setting.evaluation,
        steps=cell.steps,
        statistics=parts.train,
        seconds=seconds,
        seed=dd.generator("nas", "statistics"),
    )


def _kept_set(cell: Cell, setting: Setting, place: Place, train: dd.RealData) -> tuple[dd.Distilled, float]:
    """Return the set of a cell with the seconds that it took, made once for all cells that train on it."""
    about = dataclasses.asdict(dataclasses.replace(cell, steps=0, repeats=1))
    told = {"cell": about, "setting": plain(setting), "method": described(cell), "train": train.fingerprint}
    key = hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()[:24]
    folder = place.folder / "sets" / key
    if not (folder / "took.json").is_file():
        clock = time.process_time if place.device == "cpu" else time.perf_counter
        began = clock()
        make_student = STUDENTS[cell.students or "one"](setting, train)
        rng = dd.generator("nas", "set", cell.seed)
        made: dd.Distilled = dd.distill(_made(cell), train, make_student=make_student, seed=rng)
        took = round(clock() - began, 3)
        made.save(folder)
        write_atomic(folder / "took.json", readable_json({"seconds": took}))
    seconds = float(strict_json((folder / "took.json").read_bytes())["seconds"])
    return dd.Distilled.load(folder), seconds
