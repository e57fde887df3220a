"""How true explanations are: rankings of training images against leave-one-out, synthetic images against removal."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

import ddsdk as dd
from ddsdk.foundation import derive, require, require_count
from ddsdk.training import KernelMachine, kernel_machine
from ddsdk_integrations.explain.faithfulness import (
    data_modelling_score,
    leave_one_out,
    random_subsets,
    rank_correlation,
    removal,
)
from ddsdk_integrations.explain.influence import Influence
from ddsdk_integrations.explain.weights import Explainer

_REMOVED = (1, 5, 10)
_NEAREST = 10


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all cells of a table share.

    Attributes:
        ipc: Images per class of the sets.
        steps: Of KIP.
        ridge: Of the regression on all training images, in units of the mean of the diagonal.
        queries: Test images whose predictions are explained.
        subsets: Random halves of the training images for the linear data-modelling score.
        again: Whether models of the halves are sets that KIP distils again, in place of regressions on the half.
    """

    ipc: int = 10
    steps: int = 300
    ridge: float = 1e-6
    queries: int = 60
    subsets: int = 40
    again: bool = False

    def __post_init__(self) -> None:
        for name in ("ipc", "steps", "queries", "subsets"):
            require_count(name, getattr(self, name))
        require(0 <= self.ridge < 1, "ridge", "lie in 0 <= value < 1", self.ridge)

    @property
    def machine(self) -> KernelMachine:
        """Kernel and ridge."""
        return kernel_machine("fc-ntk", ridge=self.ridge)

    def recipe(self) -> dd.KIP:
        """Return how the learned set is made: images and labels."""
        return dd.KIP(ipc=self.ipc, steps=self.steps, real_batch=500, learn_labels=True, ridge=self.ridge)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One way to rank training images, and a seed."""

    method: str
    seed: int


@dataclass(frozen=True, kw_only=True)
class Case:
    """What a way to rank is asked: training images, queries in the same value space and their predicted classes."""

    train: dd.RealData
    x: Tensor
    classes: Tensor
    setting: Setting


Ranked = tuple[Tensor, dd.Distilled | None]
"""Influence of each training image on each query, (B, N), and the set that it goes through, if it goes through one."""


def _by_pixels(case: Case, rng: torch.Generator) -> Ranked:  # noqa: ARG001
    everything = case.train.batch(torch.arange(len(case.train))).x
    near = -torch.cdist(case.x.flatten(1).double(), everything.flatten(1).double())
    return near, None


def _truth(case: Case, rng: torch.Generator) -> Ranked:  # noqa: ARG001
    return leave_one_out(case.setting.machine, case.train, case.x, case.classes), None


def _through(make: Callable[[Setting], Any]) -> Callable[[Case, torch.Generator], Ranked]:
    def ranked(case: Case, rng: torch.Generator) -> Ranked:
        distilled = dd.distill(make(case.setting), case.train, make_student=_no_student, seed=rng)
        explainer = Explainer(distilled, case.setting.machine)
        return Influence(explainer, case.train, ridge=case.setting.ridge).falls(case.x), distilled

    return ranked


def _by_weights(case: Case, rng: torch.Generator) -> Ranked:
    """Rank by how alike the weights of synthetic images are in both predictions, as RFAD does."""
    distilled = dd.distill(case.setting.recipe(), case.train, make_student=_no_student, seed=rng)
    explainer = Explainer(distilled, case.setting.machine)
    everything = case.train.batch(torch.arange(len(case.train))).x
    a, b = (normalize(explainer.weights(x), dim=1) for x in (case.x, everything))
    return a @ b.T, distilled


def _no_student(rng: torch.Generator) -> torch.nn.Module:  # noqa: ARG001
    raise ValueError("rows must need no student: sets for kernels are made by kernels")


ROWS: Mapping[str, Callable[[Case, torch.Generator], Ranked]] = {
    "through a KIP set": _through(Setting.recipe),
    "through random images": _through(lambda s: dd.BASELINES["random"](ipc=s.ipc)),
    "through k-means images": _through(lambda s: dd.BASELINES["k-means"](ipc=s.ipc)),
    "alike weights of a KIP set": _by_weights,
    "pixel neighbours": _by_pixels,
    "leave-one-out itself": _truth,
}
"""Ways to rank training images for a prediction."""


def measure(cell: Cell, setting: Setting, train: dd.RealData, test: dd.RealData) -> dict[str, Any]:
    """Run one cell and return what the table needs, JSON values.

    Args:
        cell: The row.
        setting: What all share.
        train: The training images.
        test: The first images of each class are the queries; all give the accuracy.
    """
    rng = dd.generator("explain", cell.seed)
    case, truth = _case(setting, train, test)
    began = time.perf_counter()
    influence, distilled = ROWS[cell.method](case, derive(rng, "set"))
    seconds = time.perf_counter() - began
    return {
        "cell": asdict(cell),
        "setting": asdict(setting),
        "seconds": seconds,
        "floats": None if distilled is None else distilled.images.numel(),
        "training floats": train.batch(torch.arange(1)).x.numel() * len(train),
        **_agreement(influence, truth, case),
        "lds": _foretold(influence, case, derive(rng, "subsets")),
        **({} if distilled is None else _of_set(distilled, case, test, derive(rng, "removal"))),
    }


def _case(setting: Setting, train: dd.RealData, test: dd.RealData) -> tuple[Case, Tensor]:
    each = -(-setting.queries // test.num_classes)
    index = torch.cat([test.index_of_class(c)[:each] for c in range(test.num_classes)])[: setting.queries]
    x = test.with_preprocess(train.preprocess).batch(index).x
    everything = train.batch(torch.arange(len(train)))
    centred = everything.y.double() - 1 / train.num_classes
    classes = setting.machine.predict(everything.x, centred, x).argmax(1)
    return Case(train=train, x=x, classes=classes, setting=setting), leave_one_out(setting.machine, train, x, classes)


def _agreement(influence: Tensor, truth: Tensor, case: Case) -> dict[str, float]:
    a, b = (rows - rows.mean(1, keepdim=True) for rows in (influence, truth))
    linear = (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))
    first = influence.topk(_NEAREST, dim=1).indices
    shared = (first[:, :, None] == truth.topk(_NEAREST, dim=1).indices[:, None]).any(2)
    same = case.train.labels[first] == case.classes[:, None]
    return {
        "rank correlation": float(rank_correlation(influence, truth).mean()),
        "correlation": float(linear.mean()),
        "shared": float(shared.double().mean()),
        "same class": float(same.double().mean()),
    }


def _foretold(influence: Tensor, case: Case, rng: torch.Generator) -> float:
    subsets = random_subsets(len(case.train), case.setting.subsets, 0.5, derive(rng, "draw"))
    outputs = torch.stack([_scores(case, members, rng) for members in subsets])
    return data_modelling_score(influence, subsets, outputs)


def _scores(case: Case, members: Tensor, rng: torch.Generator) -> Tensor:
    """Return what a model of some training images says of the predicted classes, (B,)."""
    half, machine = case.train.subset(torch.nonzero(members).flatten()), case.setting.machine
    if case.setting.again:
        made = dd.distill(case.setting.recipe(), half, make_student=_no_student, seed=derive(rng, "again"))
        found = machine.predict(made.images, made.labels, case.x)
    else:
        x, y = half.batch(torch.arange(len(half)))
        found = machine.predict(x, y.double() - 1 / half.num_classes, case.x)
    return found.gather(1, case.classes[:, None])[:, 0]


def _of_set(distilled: dd.Distilled, case: Case, test: dd.RealData, rng: torch.Generator) -> dict[str, Any]:
    explainer = Explainer(distilled, case.setting.machine)
    held_out = test.with_preprocess(case.train.preprocess).batch(torch.arange(len(test))).x
    right = explainer.explain(held_out).classes == test.labels
    falls = [
        asdict(removal(explainer, case.x, count, derive(rng, count))) for count in _REMOVED if count < len(explainer)
    ]
    return {
        "accuracy": float(right.double().mean()),
        "condition": explainer.condition,
        "agreement": Influence(explainer, case.train, ridge=case.setting.ridge).agreement,
        "removal": falls,
    }
