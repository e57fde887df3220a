"""How often triggers survive distillation, and how often a scan finds them."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

import ddsdk as dd
from ddsdk.foundation import derive, require, require_count
from ddsdk.recipes import IterativeRecipe
from ddsdk.training import accuracy
from ddsdk_integrations.robustness.backdoor.doorping import Doorping, TrainedVictims, distil_doorping
from ddsdk_integrations.robustness.backdoor.inversion import Inversion
from ddsdk_integrations.robustness.backdoor.scan import TESTS, scan
from ddsdk_integrations.robustness.backdoor.triggers import Trigger, attack_success, poison
from ddsdk_integrations.robustness.backdoor.victims import trained_on

TARGET = 0
"""The class that attackers want to see."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all cells of a table share.

    Attributes:
        ipc: Images per class.
        steps: Image steps of each recipe.
        width: Of the ConvNets that recipes use.
        judge_width: Of the ConvNets that are trained on the sets.
        networks: Trained on each set.
        size: Pixels of a side of the trigger.
        real_batch: Real images of each class in a step.
    """

    ipc: int = 10
    steps: int = 60
    width: int = 8
    judge_width: int = 16
    networks: int = 2
    size: int = 2
    real_batch: int = 32

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            require_count(name, value)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One set: a method, what was done to its images, the share of poisoned ones, a seed, and whether it is scanned."""

    method: str
    attack: str
    fraction: float
    seed: int
    scanned: bool

    def __post_init__(self) -> None:
        clean = self.attack == "none"
        ok = self.fraction == 0 if clean else 0 < self.fraction < 1
        require(ok, "fraction", "be 0 without an attack and lie in 0 < value < 1 with one", self.fraction)


def _matching(method: type[Any], augmentation: str) -> Callable[[Setting], IterativeRecipe]:
    def make(setting: Setting) -> IterativeRecipe:
        recipe: IterativeRecipe = method(
            ipc=setting.ipc,
            students=max(1, setting.steps // 10),
            steps_per_student=10,
            student_epochs=10,
            real_batch=setting.real_batch,
            start="real",
            augmentation=augmentation,
        )
        return recipe

    return make


def _means(augmentation: str) -> Callable[[Setting], IterativeRecipe]:
    return lambda setting: dd.DM(
        ipc=setting.ipc, steps=setting.steps, real_batch=setting.real_batch, augmentation=augmentation
    )


METHODS: Mapping[str, Callable[[Setting], IterativeRecipe]] = {
    "dm": _means(""),
    "dm with cutout": _means("cutout"),
    "dc": _matching(dd.DC, ""),
    "dsa without cutout": _matching(dd.DSA, "color_crop_scale_rotate"),
    "dsa with cutout": _matching(dd.DSA, "cutout"),
}
"""All start from real images; networks that train on a set have the augmentation that it was made with."""

_FOLLOWING = {"steps": 10, "every": 10, "images": 64}
ATTACKS: Mapping[str, Doorping | None] = {
    "none": None,
    "white": None,
    "random colours": None,
    "doorping": Doorping(aim="neuron", **_FOLLOWING),
    "to the label": Doorping(aim="label", stop_below=0.0, **_FOLLOWING),
}
"""What is done: a white corner, a corner of random colours, or one that starts so and follows networks of the run."""


def described(cell: Cell, setting: Setting) -> dict[str, Any]:
    """Return what a cell's method and attack are, for its key."""
    settings = ATTACKS[cell.attack]
    return {
        "recipe": asdict(METHODS[cell.method](setting)),
        "attack": None if settings is None else asdict(settings),
        "inversion": asdict(_INVERSION),
        "trusted": _TRUSTED,
        "rounds": None if settings is None else _ROUNDS,
    }


_INVERSION = Inversion(steps=100, lr=0.2, batch=16)
_TRUSTED = 0.1
_ROUNDS = 2


def measure(cell: Cell, setting: Setting, train: dd.RealData, test: dd.RealData) -> dict[str, Any]:
    """Make one set and return what the table needs, JSON values.

    Args:
        cell: The row.
        setting: What all share.
        train: A tenth of it is kept apart as the scanner's trusted images.
        test: Read once by each network, for accuracy and success.
    """
    began, rng = time.perf_counter(), dd.generator("backdoor", cell.seed)
    rest, trusted = train.split(_TRUSTED, dd.generator("trusted"))
    distilled, trigger = _distilled(cell, setting, rest, rng)
    judge = dataclasses.replace(
        dd.Evaluation.quick(METHODS[cell.method](setting).evaluation(rest).augmentation),
        network_options={"width": setting.judge_width},
        epochs=100,
    )
    nets = trained_on(distilled, networks=setting.networks, seed=derive(rng, "judge"), evaluation=judge)
    whole = test.batch(torch.arange(len(test))).x
    success = attack_success(nets, test, trigger, TARGET)
    found: dict[str, Any] = {"scores": None, "pointed": None}
    if cell.scanned:
        seen = scan(distilled, clean=trusted, networks=nets, images=100, inversion=_INVERSION, seed=derive(rng, "scan"))
        found["scores"] = {name: seen.score(name) for name in TESTS}
        found["pointed"] = {name: seen.highest(name).label for name in TESTS}
    return {
        "cell": asdict(cell),
        "accuracy": sum(accuracy(n, whole, test.labels) for n in nets) / len(nets),
        "stamped": success.stamped,
        "plain": success.plain,
        "net": success.net,
        "patch": trigger.patch.flatten().tolist(),
        **found,
        "seconds": time.perf_counter() - began,
    }


def _distilled(cell: Cell, setting: Setting, real: dd.RealData, rng: torch.Generator) -> tuple[dd.Distilled, Trigger]:
    """Return the set, and the trigger that is tried on it; a set without an attack is tried with a white corner."""
    recipe = METHODS[cell.method](setting)
    make = dd.network_factory("convnet", real.image_shape, real.num_classes, width=setting.width)
    colours = None if cell.attack in ("none", "white") else derive(rng, "colours")
    trigger = Trigger.corner(real.image_shape, setting.size, colours)
    run = derive(rng, "run")
    if cell.attack == "none":
        return dd.distill(recipe, real, make_student=make, seed=run), trigger
    poisoned = poison(real, trigger, target=TARGET, fraction=cell.fraction, rng=derive(rng, "poison"))
    settings = ATTACKS[cell.attack]
    if settings is None:
        return dd.distill(recipe, poisoned.data, make_student=make, seed=run), trigger
    opened = distil_doorping(
        recipe,
        poisoned,
        trigger,
        settings=settings,
        make_student=make,
        seed=run,
        victims=TrainedVictims(make_student=make),
        rounds=_ROUNDS,
    )
    return opened.distilled, opened.trigger
