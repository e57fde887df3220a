"""`python -m benchmarks.explain`: rankings of influential training images, compared with leave-one-out."""

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
from benchmarks.kit import Benchmark, Column, Plot, RunConfig, RunGroup, mean_of, value_of
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
    removal_test,
)

_REMOVED = (1, 5, 10)
_NEAREST = 10


@dataclass(frozen=True, kw_only=True)
class ExperimentConfig:
    """Settings of all runs.

    Attributes:
        ipc: Images per class of the distilled sets.
        steps: Number of steps of KIP.
        ridge: Ridge of the kernel regression, as a multiple of the mean diagonal of the kernel matrix, in [0, 1).
        queries: Number of test images whose predictions are explained.
        subsets: Number of random halves of the training images for the linear data-modelling score (LDS).
        again: Whether the model of each half is a set distilled from it by KIP, instead of kernel regression on it.
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
        """Kernel regression with the ridge."""
        return kernel_machine("fc-ntk", ridge=self.ridge)

    def recipe(self) -> dd.KIP:
        """Return the recipe KIP with learned images and labels."""
        return dd.KIP(ipc=self.ipc, steps=self.steps, real_batch=500, learn_labels=True, ridge=self.ridge)


@dataclass(frozen=True, kw_only=True)
class Case:
    """Training images, queries and predictions.

    Attributes:
        train: Training images that are ranked by their influence.
        x: Query images (B, C, H, W), preprocessed like the training images.
        classes: Predicted classes (B,) of kernel regression on all training images.
        config: Settings of the benchmark.
    """

    train: dd.RealData
    x: Tensor
    classes: Tensor
    config: ExperimentConfig

    @property
    def everything(self) -> Tensor:
        """All training images as one tensor (N, C, H, W)."""
        return self.train.batch(torch.arange(len(self.train))).x

    def distilled(self, method: Any, rng: torch.Generator) -> tuple[dd.Distilled, Explainer]:  # noqa: ANN401
        """Return the distilled set of a method and its explainer."""
        distilled = dd.distill(method, self.train, seed=rng)
        return distilled, Explainer(distilled, self.config.machine)


Ranked = tuple[Tensor, dd.Distilled | None]
"""Influence (B, N) of each training image on each query, and the distilled set of its computation, None without one."""


def _pixel_distances(case: Case, rng: torch.Generator) -> Ranked:  # noqa: ARG001
    return -torch.cdist(case.x.flatten(1).double(), case.everything.flatten(1).double()), None


def _leave_one_out(case: Case, rng: torch.Generator) -> Ranked:  # noqa: ARG001
    return leave_one_out(case.config.machine, case.train, case.x, case.classes), None


def _through_set(make: Callable[[ExperimentConfig], Any]) -> Callable[[Case, torch.Generator], Ranked]:
    def rank(case: Case, rng: torch.Generator) -> Ranked:
        distilled, explainer = case.distilled(make(case.config), rng)
        return Influence(explainer, case.train, ridge=case.config.ridge).falls(case.x), distilled

    return rank


def _weight_similarities(case: Case, rng: torch.Generator) -> Ranked:
    """Return the cosine similarity of the weights that two predictions give to the synthetic images, as in RFAD."""
    distilled, explainer = case.distilled(case.config.recipe(), rng)
    query_weights, train_weights = (normalize(explainer.weights(x), dim=1) for x in (case.x, case.everything))
    return query_weights @ train_weights.T, distilled


METHODS: Mapping[str, Callable[[Case, torch.Generator], Ranked]] = {
    "through a KIP set": _through_set(ExperimentConfig.recipe),
    "through random images": _through_set(lambda s: dd.BASELINES["random"](ipc=s.ipc)),
    "through k-means images": _through_set(lambda s: dd.BASELINES["k-means"](ipc=s.ipc)),
    "alike weights of a KIP set": _weight_similarities,
    "pixel neighbours": _pixel_distances,
    "leave-one-out itself": _leave_one_out,
}
"""Rankings of the training images by their influence on a prediction."""


def measure(run: RunConfig, config: ExperimentConfig, train: dd.RealData, test: dd.RealData) -> dict[str, Any]:
    """Return the agreement of a ranking with leave-one-out, and the effect of removing images from its distilled set.

    The queries are the first test images of each class; the accuracy is that of all test images.
    """
    rng = dd.generator("explain", run.seed)
    case = _case(config, train, test)
    truth = leave_one_out(config.machine, train, case.x, case.classes)
    began = time.perf_counter()
    influence, distilled = METHODS[run.method](case, derive(rng, "set"))
    seconds = time.perf_counter() - began
    return {
        "seconds": seconds,
        "floats": (case.everything if distilled is None else distilled.images).numel(),
        **_agreement(influence, truth, case),
        "lds": _linear_data_modelling_score(influence, case, derive(rng, "subsets")),
        **({} if distilled is None else _set_values(distilled, case, test, derive(rng, "removal"))),
    }


def _case(config: ExperimentConfig, train: dd.RealData, test: dd.RealData) -> Case:
    per_class = -(-config.queries // test.num_classes)
    index = torch.cat([test.index_of_class(c)[:per_class] for c in range(test.num_classes)])[: config.queries]
    x = test.with_preprocess(train.preprocess).batch(index).x
    classes = _predicted(config.machine, train, x).argmax(1)
    return Case(train=train, x=x, classes=classes, config=config)


def _predicted(machine: KernelMachine, real: dd.RealData, x: Tensor) -> Tensor:
    everything = real.batch(torch.arange(len(real)))
    return machine.fitted(everything.x, everything.y.double() - 1 / real.num_classes)(x)


def _agreement(influence: Tensor, truth: Tensor, case: Case) -> dict[str, float]:
    a, b = (rows - rows.mean(1, keepdim=True) for rows in (influence, truth))
    linear = (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))
    top = influence.topk(_NEAREST, dim=1).indices
    shared = (top[:, :, None] == truth.topk(_NEAREST, dim=1).indices[:, None]).any(2)
    same_class = case.train.labels[top] == case.classes[:, None]
    return {
        "rank correlation": float(rank_correlation(influence, truth).mean()),
        "correlation": float(linear.mean()),
        "shared": float(shared.double().mean()),
        "same class": float(same_class.double().mean()),
    }


def _linear_data_modelling_score(influence: Tensor, case: Case, rng: torch.Generator) -> float:
    subsets = random_subsets(len(case.train), case.config.subsets, 0.5, derive(rng, "draw"))
    outputs = torch.stack([_scores(case, members, rng) for members in subsets])
    return data_modelling_score(influence, subsets, outputs)


def _scores(case: Case, members: Tensor, rng: torch.Generator) -> Tensor:
    """Return the scores (B,) of the predicted classes under the model of a subset of the training images."""
    half, machine = case.train.subset(torch.nonzero(members).flatten()), case.config.machine
    if case.config.again:
        distilled = dd.distill(case.config.recipe(), half, seed=derive(rng, "again"))
        scores = machine.fitted(distilled.images, distilled.labels)(case.x)
    else:
        scores = _predicted(machine, half, case.x)
    return scores.gather(1, case.classes[:, None])[:, 0]


def _set_values(distilled: dd.Distilled, case: Case, test: dd.RealData, rng: torch.Generator) -> dict[str, Any]:
    explainer = Explainer(distilled, case.config.machine)
    held_out = test.with_preprocess(case.train.preprocess).batch(torch.arange(len(test))).x
    correct = explainer.explain(held_out).classes == test.labels
    counts = [count for count in _REMOVED if count < len(explainer)]
    return {
        "accuracy": float(correct.double().mean()),
        "condition": explainer.condition,
        "agreement": Influence(explainer, case.train, ridge=case.config.ridge).agreement,
        "removal": [asdict(removal_test(explainer, case.x, count, derive(rng, count))) for count in counts],
    }


def _percent(head: str, key: str) -> Column:
    return mean_of(head, key, scale=100, digits=0)


def _falls(group: RunGroup, kind: str) -> list[float]:
    """Return the mean drop of the score over seeds for each number of removed images."""
    removals_by_count = zip(*(result["removal"] for result in group.results), strict=True)
    return [statistics.fmean(removal_test[kind] for removal_test in seeds) for seeds in removals_by_count]


def _through_sets(groups: Sequence[RunGroup]) -> list[RunGroup]:
    # The ranking by similar weights has the same distilled set as "through a KIP set".
    return [group for group in groups if group.method.startswith("through")]


def removals(groups: Sequence[RunGroup]) -> str:
    """Return the markdown table of the drop of the predicted score after removing synthetic images."""
    rows = []
    for group in _through_sets(groups):
        first = group.results[0]
        accuracy = f"{100 * statistics.fmean(r['accuracy'] for r in group.results):.1f}"
        falls = zip(*(_falls(group, kind) for kind in ("top", "random", "least")), strict=True)
        for entry, values in zip(first["removal"], falls, strict=True):
            cells = [accuracy, f"{first['condition']:.1e}", str(entry["count"]), *(f"{fall:.3f}" for fall in values)]
            rows.append([group.method.removeprefix("through "), *cells])
    return markdown_table(["set", "accuracy, %", "condition", "removed", "named", "random", "least"], rows)


def _points(group: RunGroup) -> list[tuple[float | None, float]]:
    if not _through_sets([group]):
        return []
    counts = [entry["count"] for entry in group.results[0]["removal"]]
    return list(zip(counts, _falls(group, "top"), strict=True))


BENCHMARK = Benchmark(
    prog="python -m benchmarks.explain",
    text="Rank training images by their influence on predictions; compare the rankings with leave-one-out.",
    config=ExperimentConfig,
    methods=METHODS,
    measure=measure,
    columns=[
        mean_of("rank correlation with leave-one-out", "rank correlation", digits=2),
        mean_of("correlation", "correlation", digits=2),
        _percent("of its ten shared, %", "shared"),
        _percent("same class, %", "same class"),
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
