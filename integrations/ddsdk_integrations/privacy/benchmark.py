"""Accuracy at equal budgets: private recipes, DP-SGD, and the same without privacy, on one downstream network."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

import ddsdk as dd
from ddsdk.foundation import derive, require, require_count, require_rate
from ddsdk.training import accuracy
from ddsdk_integrations.privacy.budget import Budget, Ledger
from ddsdk_integrations.privacy.data import PrivateData
from ddsdk_integrations.privacy.dp_kip import DPKIP
from ddsdk_integrations.privacy.dp_sgd import dp_sgd
from ddsdk_integrations.privacy.ndpdc import NDPDC
from ddsdk_integrations.privacy.psg import PSG

Rows = dict[str, float | None]
"""A method's figures on the test images, such as its accuracy."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all cells of a table share.

    Attributes:
        delta: Of all budgets.
        width: Of the ConvNets that recipes use.
        judge_width: Of the ConvNets that are trained on sets, and of DP-SGD's.
        networks: Trained on each set.
    """

    delta: float = 1e-5
    width: int = 16
    judge_width: int = 32
    networks: int = 3

    def __post_init__(self) -> None:
        require(0 < self.delta < 1, "delta", "lie strictly between 0 and 1", self.delta)
        for name in ("width", "judge_width", "networks"):
            require_count(name, getattr(self, name))


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run: a method, epsilon (None without privacy), images per class (0 for a classifier), and a seed."""

    method: str
    epsilon: float | None
    ipc: int
    seed: int

    def __post_init__(self) -> None:
        if self.epsilon is not None:
            require_rate("epsilon", self.epsilon)
        require_count("ipc", self.ipc, least=0)


@dataclass(frozen=True, kw_only=True)
class Method:
    """How a cell is made.

    Attributes:
        make: From images per class to the recipe or baseline.
        private: Whether it spends a budget.
        classifier: Whether it trains a network and makes no set.
        sizes: Images per class for which it is measured.
    """

    make: Callable[[int], Any]
    private: bool = True
    classifier: bool = False
    sizes: tuple[int, ...] = (10, 50)


METHODS: dict[str, Method] = {
    # The rate is said, for it is part of what a cell is.
    "ndpdc": Method(make=lambda ipc: NDPDC(ipc=ipc, image_lr=10.0 * ipc)),
    "ndpdc from noise": Method(
        make=lambda ipc: NDPDC(ipc=ipc, start="noise", centred=False, image_lr=10.0 * ipc), sizes=(10,)
    ),
    "psg": Method(make=lambda ipc: PSG(ipc=ipc), sizes=(10,)),
    "dp-kip": Method(make=lambda ipc: DPKIP(ipc=ipc), sizes=(10,)),
    "dp-sgd": Method(
        make=lambda _: {"steps": 150, "sample_rate": 0.02, "clip": 0.1, "lr": 4.0}, classifier=True, sizes=(0,)
    ),
    "ndpdc without noise": Method(make=lambda ipc: NDPDC(ipc=ipc, image_lr=10.0 * ipc), private=False),
    "dm": Method(make=lambda ipc: dd.DM(ipc=ipc, steps=1000, augmentation=""), private=False, sizes=(10,)),
    "random images": Method(make=lambda ipc: dd.BASELINES["random"](ipc=ipc), private=False),
}
"""Rows of the table. Settings of `ndpdc` were chosen on held-out training images at epsilon 1, of `psg` at 10."""

PUBLISHED: Mapping[tuple[str, float | None, int], float] = {
    ("ndpdc", 1.0, 10): 77.7,
    ("ndpdc", 1.0, 50): 78.8,
    ("psg", 1.0, 10): 68.5,
    ("dp-kip", 1.0, 10): 17.7,
    ("dm", None, 10): 84.6,
}
"""Of FashionMNIST with a ConvNet of width 128 and delta 1e-5, as the project page of Dosser (ICCV 2025) gives them."""

_NO_NOISE = 1e6


def described(cell: Cell) -> dict[str, Any]:
    """Return what a cell's method is, for its key."""
    made = METHODS[cell.method].make(cell.ipc)
    return dict(made) if isinstance(made, Mapping) else {"class": type(made).__name__, **asdict(made)}


def measure(cell: Cell, setting: Setting, train: dd.RealData, test: dd.RealData) -> dict[str, Any]:
    """Run one cell and return what the table needs, JSON values.

    Args:
        cell: The row.
        setting: What all share.
        train: The records.
        test: Read once, in the end.
    """
    method, rng = METHODS[cell.method], dd.generator("privacy", cell.seed)
    epsilon = cell.epsilon if cell.epsilon is not None else _NO_NOISE
    budget = Budget(epsilon=epsilon, delta=setting.delta)
    size = len(train) / train.num_classes
    private = PrivateData(train, Ledger(budget), class_size=size, statistics="taken as public")
    began = time.perf_counter()
    made = method.make(cell.ipc)
    width = setting.judge_width if method.classifier else setting.width
    make = dd.network_factory("convnet", train.image_shape, train.num_classes, width=width)
    if method.classifier:
        network = dp_sgd(private, make_student=make, seed=rng, **made)
        everything = test.batch(torch.arange(len(test)))
        rows: Rows = {"accuracy": accuracy(network, everything.x, test.labels)}
    else:
        sealed = method.private or isinstance(made, NDPDC)
        distilled = dd.distill(made, private if sealed else train, make_student=make, seed=rng)
        rows = _judged(distilled, test, setting, derive(rng, "judge"))
    return {
        "cell": asdict(cell),
        **rows,
        "spent": private.ledger.epsilon if cell.epsilon is not None else None,
        "releases": [one.line for one in private.ledger.releases],
        "seconds": time.perf_counter() - began,
    }


def _judged(distilled: dd.Distilled, test: dd.RealData, setting: Setting, rng: torch.Generator) -> Rows:
    """Return the accuracy of networks that train on a set, and of its own kernel where it is made for one."""
    own = dd.Evaluation.from_dict(distilled.evaluation)
    judge = dataclasses.replace(
        dd.Evaluation.published(),
        network_options={"width": setting.judge_width},
        networks=setting.networks,
        labels="hard",
    )
    whole = (distilled.images, distilled.labels)
    score = dd.evaluate(whole, test, judge, seed=rng)
    kernel = dd.evaluate(whole, test, own, seed=rng).mean if own.learner == "kernel" else None
    return {"accuracy": score.mean, "deviation": score.std, "kernel": kernel}
