"""`python -m benchmarks.explain`: rankings of training images against leave-one-out, and what removal does to sets."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

import ddsdk as dd
from benchmarks.kit import Benchmark, Cell, Column, Group, Plot, mean_of, value_of
from ddsdk.experiments import markdown_table
from ddsdk.foundation import derive, require, require_count
from ddsdk.training import KernelMachine, kernel_machine
from ddsdk_integrations.explain import (
    Explainer,
    Influence,
    data_modelling_score,
    leave_one_out,
    random_subsets,
    rank_correlation,
    removal,
)

_REMOVED = (1, 5, 10)
_NEAREST = 10


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Values that all cells share.

    Attributes:
        ipc: Images per class of the sets.
        steps: Steps of KIP.
        ridge: Ridge of the regression on all training images, in units of the mean of the diagonal.
        queries: Number of test images whose predictions are explained.
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
        """Return the recipe of the learned set: images and labels."""
        return dd.KIP(ipc=self.ipc, steps=self.steps, real_batch=500, learn_labels=True, ridge=self.ridge)


@dataclass(frozen=True, kw_only=True)
class Case:
    """Training images, queries in the same value space, and their predicted classes."""

    train: dd.RealData
    x: Tensor
    classes: Tensor
    setting: Setting

    @property
    def everything(self) -> Tensor:
        """All training images, (N, C, H, W)."""
        return self.train.batch(torch.arange(len(self.train))).x

    def distilled(self, method: Any, rng: torch.Generator) -> tuple[dd.Distilled, Explainer]:  # noqa: ANN401
        """Return the set of a method, with its explainer."""
        made = dd.distill(method, self.train, seed=rng)
        return made, Explainer(made, self.setting.machine)


Ranked = tuple[Tensor, dd.Distilled | None]
"""Influence of each training image on each query, (B, N), and the set that it goes through, if it goes through one."""


def _by_pixels(case: Case, rng: torch.Generator) -> Ranked:  # noqa: ARG001
    return -torch.cdist(case.x.flatten(1).double(), case.everything.flatten(1).double()), None


def _truth(case: Case, rng: torch.Generator) -> Ranked:  # noqa: ARG001
    return leave_one_out(case.setting.machine, case.train, case.x, case.classes), None


def _through(make: Callable[[Setting], Any]) -> Callable[[Case, torch.Generator], Ranked]:
    def ranked(case: Case, rng: torch.Generator) -> Ranked:
        made, explainer = case.distilled(make(case.setting), rng)
        return Influence(explainer, case.train, ridge=case.setting.ridge).falls(case.x), made

    return ranked


def _by_weights(case: Case, rng: torch.Generator) -> Ranked:
    """Rank by how alike the weights of synthetic images are in both predictions, as RFAD does."""
    made, explainer = case.distilled(case.setting.recipe(), rng)
    a, b = (normalize(explainer.weights(x), dim=1) for x in (case.x, case.everything))
    return a @ b.T, made


METHODS: Mapping[str, Callable[[Case, torch.Generator], Ranked]] = {
    "through a KIP set": _through(Setting.recipe),
    "through random images": _through(lambda s: dd.BASELINES["random"](ipc=s.ipc)),
    "through k-means images": _through(lambda s: dd.BASELINES["k-means"](ipc=s.ipc)),
    "alike weights of a KIP set": _by_weights,
    "pixel neighbours": _by_pixels,
    "leave-one-out itself": _truth,
}
"""Ways to rank training images for a prediction."""


def measure(cell: Cell, setting: Setting, train: dd.RealData, test: dd.RealData) -> dict[str, Any]:
    """Return how well a way to rank agrees with leave-one-out, and what removal does to the set that it goes through.

    The first test images of each class are the queries; all give the accuracy.
    """
    rng = dd.generator("explain", cell.seed)
    case = _case(setting, train, test)
    truth = leave_one_out(setting.machine, train, case.x, case.classes)
    began = time.perf_counter()
    influence, made = METHODS[cell.method](case, derive(rng, "set"))
    seconds = time.perf_counter() - began
    return {
        "seconds": seconds,
        "floats": (case.everything if made is None else made.images).numel(),
        **_agreement(influence, truth, case),
        "lds": _foretold(influence, case, derive(rng, "subsets")),
        **({} if made is None else _of_set(made, case, test, derive(rng, "removal"))),
    }


def _case(setting: Setting, train: dd.RealData, test: dd.RealData) -> Case:
    each = -(-setting.queries // test.num_classes)
    index = torch.cat([test.index_of_class(c)[:each] for c in range(test.num_classes)])[: setting.queries]
    x = test.with_preprocess(train.preprocess).batch(index).x
    classes = _predicted(setting.machine, train, x).argmax(1)
    return Case(train=train, x=x, classes=classes, setting=setting)


def _predicted(machine: KernelMachine, real: dd.RealData, x: Tensor) -> Tensor:
    everything = real.batch(torch.arange(len(real)))
    return machine.predict(everything.x, everything.y.double() - 1 / real.num_classes, x)


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
    """Return the scores of the predicted classes under a model of some training images, (B,)."""
    half, machine = case.train.subset(torch.nonzero(members).flatten()), case.setting.machine
    if case.setting.again:
        made = dd.distill(case.setting.recipe(), half, seed=derive(rng, "again"))
        found = machine.predict(made.images, made.labels, case.x)
    else:
        found = _predicted(machine, half, case.x)
    return found.gather(1, case.classes[:, None])[:, 0]


def _of_set(made: dd.Distilled, case: Case, test: dd.RealData, rng: torch.Generator) -> dict[str, Any]:
    explainer = Explainer(made, case.setting.machine)
    held_out = test.with_preprocess(case.train.preprocess).batch(torch.arange(len(test))).x
    right = explainer.explain(held_out).classes == test.labels
    counts = [count for count in _REMOVED if count < len(explainer)]
    return {
        "accuracy": float(right.double().mean()),
        "condition": explainer.condition,
        "agreement": Influence(explainer, case.train, ridge=case.setting.ridge).agreement,
        "removal": [asdict(removal(explainer, case.x, count, derive(rng, count))) for count in counts],
    }


def _share(head: str, key: str) -> Column:
    return mean_of(head, key, scale=100, digits=0)


def _falls(group: Group, kind: str) -> list[float]:
    """Return the mean fall over seeds for each number of removed images."""
    numbers = zip(*(result["removal"] for result in group.results), strict=True)
    return [statistics.fmean(one[kind] for one in same) for same in numbers]


def _through_sets(groups: Sequence[Group]) -> list[Group]:
    # Two ways to rank may go through one set.
    return [group for group in groups if group.method.startswith("through")]


def removals(groups: Sequence[Group]) -> str:
    """Return the table of the fall of the predicted score when synthetic images are removed."""
    rows = []
    for group in _through_sets(groups):
        first = group.results[0]
        accuracy = f"{100 * statistics.fmean(r['accuracy'] for r in group.results):.1f}"
        falls = zip(*(_falls(group, kind) for kind in ("top", "random", "least")), strict=True)
        for one, values in zip(first["removal"], falls, strict=True):
            told = [accuracy, f"{first['condition']:.1e}", str(one["count"]), *(f"{fall:.3f}" for fall in values)]
            rows.append([group.method.removeprefix("through "), *told])
    return markdown_table(["set", "accuracy, %", "condition", "removed", "named", "random", "least"], rows)


def _points(group: Group) -> list[tuple[float | None, float]]:
    if not _through_sets([group]):
        return []
    counts = [one["count"] for one in group.results[0]["removal"]]
    return list(zip(counts, _falls(group, "top"), strict=True))


BENCHMARK = Benchmark(
    prog="python -m benchmarks.explain",
    text="Rank training images behind predictions in several ways, and compare each with leave-one-out on all of them.",
    setting=Setting,
    methods=METHODS,
    measure=measure,
    columns=[
        mean_of("rank correlation with leave-one-out", "rank correlation", digits=2),
        mean_of("correlation", "correlation", digits=2),
        _share("of its ten shared, %", "shared"),
        _share("same class, %", "same class"),
        mean_of("LDS", "lds", digits=2),
        value_of("floats kept", "floats"),
        mean_of("seconds", "seconds"),
    ],
    line=lambda r: f"rank correlation {r['rank correlation']:.2f}, LDS {r['lds']:.2f}",
    plot=Plot("explain.png", _points, "synthetic images removed, those that explanations name", "fall of the score"),
    notes=removals,
)

if __name__ == "__main__":
    sys.exit(BENCHMARK.run())
