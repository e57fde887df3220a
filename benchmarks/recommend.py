"""`python -m benchmarks.recommend`: recommendations learned from few real or synthetic users and from all users."""

from __future__ import annotations

import hashlib
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

import ddsdk as dd
from benchmarks.kit import Benchmark, Loaded, Options, Plot, RunConfig, RunGroup, mean_of, percent_of
from ddsdk.foundation import derive, require, require_count
from ddsdk_integrations.recommend import (
    EASE,
    DistillCF,
    Interactions,
    RankingMetrics,
    WideAutoencoder,
    popularity_scores,
    propensities,
    ranking_metrics,
    sampled_users,
    simulated_interactions,
)


@dataclass(frozen=True, kw_only=True)
class ExperimentConfig:
    """Settings of all runs.

    Attributes:
        people: Number of simulated users.
        items: Number of simulated items.
        least_rating: Smallest rating in the file that counts as an interaction.
        users: Number of users of a small set.
        steps: Number of steps of Distill-CF.
        draws: Number of item draws of a synthetic user in Distill-CF.
        k: Number of recommended items for each user.
    """

    people: int = 600
    items: int = 300
    least_rating: float = 0.0
    users: int = 50
    steps: int = 200
    draws: int = 200
    k: int = 10

    def __post_init__(self) -> None:
        for setting in fields(self):
            if setting.name != "least_rating":
                require_count(setting.name, getattr(self, setting.name))


class Users(NamedTuple):
    """Training users.

    Attributes:
        rows: Interactions (M, I) of M users with I items, in 0..1.
        numbers: Number of stored numbers: an index for each interaction of sparse users.
    """

    rows: Tensor
    numbers: int


Make = Callable[[ExperimentConfig, Interactions, torch.Generator], Users]


def _all_users(config: ExperimentConfig, train: Interactions, rng: torch.Generator) -> Users:  # noqa: ARG001
    return _sparse(train.matrix)


def _random_users(config: ExperimentConfig, train: Interactions, rng: torch.Generator) -> Users:
    return _sparse(train.matrix[torch.randperm(len(train.matrix), generator=rng)[: config.users]])


def _most_items(config: ExperimentConfig, train: Interactions, rng: torch.Generator) -> Users:  # noqa: ARG001
    return _sparse(train.matrix[train.matrix.sum(1).argsort(descending=True)[: config.users]])


def _sparse(rows: Tensor) -> Users:
    return Users(rows, int(rows.sum()))


def _distilled(config: ExperimentConfig, train: Interactions, rng: torch.Generator, *, sparse: bool) -> Users:
    distilled = dd.distill(DistillCF(users=config.users, steps=config.steps, draws=config.draws), train, seed=rng)
    if sparse:
        distilled = sampled_users(distilled, round(float(train.matrix.sum(1).mean())))
    return Users(distilled.images[:, 0, 0], distilled.stored_floats)


SMALL_SETS: Mapping[str, Make] = {
    "random users": _random_users,
    "users with most items": _most_items,
    "Distill-CF": partial(_distilled, sparse=False),
    "sparse Distill-CF": partial(_distilled, sparse=True),
}
METHODS: Mapping[str, Make] = {
    "popularity": _all_users,
    "EASE on all users": _all_users,
    "autoencoder on all users": _all_users,
    **SMALL_SETS,
}
_RIDGES = {WideAutoencoder: (0.1, 0.3, 1.0, 3.0, 10.0), EASE: (3.0, 10.0, 30.0, 100.0, 300.0)}


def measure(run: RunConfig, config: ExperimentConfig, table: Interactions) -> dict[str, Any]:
    """Return the ranking metrics on the test items, with the ridge chosen on the validation items."""
    rng = dd.generator("recommend", run.seed)
    train, validation, test = table.split(derive(rng, "split"))
    require(config.users <= len(train.matrix), "users", f"not exceed {len(train.matrix)}", config.users)
    began = time.perf_counter()
    users = METHODS[run.method](config, train, derive(rng, "set"))
    seconds = time.perf_counter() - began
    propensity = propensities(train.matrix.sum(0))

    def best(kind: type[WideAutoencoder | EASE] | None) -> RankingMetrics:
        scores = [popularity_scores(users.rows, train.matrix)]
        if kind is not None:
            scores = [kind(ridge=ridge).scores(users.rows, train.matrix) for ridge in _RIDGES[kind]]
        best_scores = max(scores, key=lambda s: ranking_metrics(s, train.matrix, validation, propensity, config.k).ndcg)
        return ranking_metrics(best_scores, train.matrix + validation, test, propensity, config.k)

    learners = {"popularity": None, "EASE on all users": EASE}
    metrics = asdict(best(learners.get(run.method, WideAutoencoder)))
    if run.method in SMALL_SETS:
        # Transfer to another learner than the autoencoder (kernel) of the distillation.
        metrics |= {"EASE": best(EASE).ndcg, "nearest": nearest_user(users.rows, train.matrix)}
    return {**metrics, "numbers": users.numbers, "seconds": seconds}


def nearest_user(users: Tensor, real: Tensor) -> float:
    """Return the mean over users of the weighted Jaccard index sum(min) / sum(max) with the nearest real user.

    The index is 1 for copies of real users.

    Args:
        users: Interactions (M, I) of M users, in 0..1.
        real: Interactions (U, I) of U real users, 0 or 1.
    """
    indices = []
    for user in users:
        low, high = torch.minimum(user, real).sum(1), torch.maximum(user, real).sum(1)
        indices.append(float((low / high).max()))
    return statistics.fmean(indices)


def _load(options: Options) -> Loaded:
    if options.data == "simulated":
        people, items = options.people, options.items  # type: ignore[attr-defined]
        rng = dd.generator("simulated")
        table = simulated_interactions(people, items, rng, tastes=6, sharpness=8.0, skew=0.8, mean_items=30.0)
    else:
        path = Path(options.root or "") / options.data
        table = Interactions.from_csv(path, least_rating=options.least_rating)  # type: ignore[attr-defined]
    return Loaded((table,), {"data": hashlib.sha256(table.matrix.numpy().tobytes()).hexdigest()})


def _points(group: RunGroup) -> list[tuple[float | None, float]]:
    return [(r["numbers"], 100 * r["ndcg"]) for r in group.results]


BENCHMARK = Benchmark(
    prog="python -m benchmarks.recommend",
    text="Learn recommendations from few real or synthetic users and from all users.\n"
    "DATA is simulated, or the path of a CSV file with columns user, item and rating, relative to ROOT if given.",
    config=ExperimentConfig,
    methods=METHODS,
    measure=measure,
    columns=[
        percent_of("nDCG, %", "ndcg"),
        percent_of("HR, %", "hits"),
        percent_of("PSP, %", "psp"),
        percent_of("by EASE, %", "EASE"),
        mean_of("like a real user", "nearest", digits=2),
        mean_of("numbers kept", "numbers", digits=0),
        mean_of("seconds", "seconds", digits=0),
    ],
    line=lambda r: f"nDCG {100 * r['ndcg']:.1f} %",
    load=_load,
    plot=Plot("recommend.png", _points, "numbers kept", "nDCG of the first items, %", log_x=True, joined=False),
)

if __name__ == "__main__":
    sys.exit(BENCHMARK.run())
