"""`python -m benchmarks.recommend`: recommendations from few users, real or synthetic, beside those from all."""

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
from benchmarks.kit import Benchmark, Cell, Group, Loaded, Options, Plot, mean_of, percent_of
from ddsdk.foundation import derive, require, require_count
from ddsdk_integrations.recommend import (
    EASE,
    DistillCF,
    Interactions,
    Ranking,
    WideAutoencoder,
    popularity,
    propensities,
    ranking,
    sampled_users,
    simulated_interactions,
)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Values that all cells share.

    Attributes:
        people: Simulated users.
        items: Simulated items.
        least_rating: Least rating of a row of the file that counts.
        users: Users of a small set.
        steps: Steps of Distill-CF.
        draws: Draws of a synthetic user.
        k: Number of items that are recommended.
    """

    people: int = 600
    items: int = 300
    least_rating: float = 0.0
    users: int = 50
    steps: int = 200
    draws: int = 200
    k: int = 10

    def __post_init__(self) -> None:
        for known in fields(self):
            if known.name != "least_rating":
                require_count(known.name, getattr(self, known.name))


class Users(NamedTuple):
    """Users to learn from.

    Attributes:
        rows: Rows of users, (M, I).
        numbers: Numbers that they take: an index for each one of sparse users.
    """

    rows: Tensor
    numbers: int


Make = Callable[[Setting, Interactions, torch.Generator], Users]


def _everybody(setting: Setting, train: Interactions, rng: torch.Generator) -> Users:  # noqa: ARG001
    return _sparse(train.matrix)


def _at_random(setting: Setting, train: Interactions, rng: torch.Generator) -> Users:
    return _sparse(train.matrix[torch.randperm(len(train.matrix), generator=rng)[: setting.users]])


def _most_items(setting: Setting, train: Interactions, rng: torch.Generator) -> Users:  # noqa: ARG001
    return _sparse(train.matrix[train.matrix.sum(1).argsort(descending=True)[: setting.users]])


def _sparse(rows: Tensor) -> Users:
    return Users(rows, int(rows.sum()))


def _distilled(setting: Setting, train: Interactions, rng: torch.Generator, *, sparse: bool) -> Users:
    made = dd.distill(DistillCF(users=setting.users, steps=setting.steps, draws=setting.draws), train, seed=rng)
    if sparse:
        made = sampled_users(made, round(float(train.matrix.sum(1).mean())))
    return Users(made.images[:, 0, 0], made.stored_floats)


SMALL_SETS: Mapping[str, Make] = {
    "random users": _at_random,
    "users with most items": _most_items,
    "Distill-CF": partial(_distilled, sparse=False),
    "sparse Distill-CF": partial(_distilled, sparse=True),
}
METHODS: Mapping[str, Make] = {
    "popularity": _everybody,
    "EASE on all users": _everybody,
    "autoencoder on all users": _everybody,
    **SMALL_SETS,
}
_RIDGES = {WideAutoencoder: (0.1, 0.3, 1.0, 3.0, 10.0), EASE: (3.0, 10.0, 30.0, 100.0, 300.0)}


def measure(cell: Cell, setting: Setting, table: Interactions) -> dict[str, Any]:
    """Return the figures on test items, which are read once, under ridges that are best on validation items."""
    rng = dd.generator("recommend", cell.seed)
    train, validation, test = table.split(derive(rng, "split"))
    require(setting.users <= len(train.matrix), "users", f"not exceed {len(train.matrix)}", setting.users)
    began = time.perf_counter()
    users = METHODS[cell.method](setting, train, derive(rng, "set"))
    seconds = time.perf_counter() - began
    propensity = propensities(train.matrix.sum(0))

    def best(kind: type[WideAutoencoder | EASE] | None) -> Ranking:
        scores = [popularity(users.rows, train.matrix)]
        if kind is not None:
            scores = [kind(ridge=ridge).scores(users.rows, train.matrix) for ridge in _RIDGES[kind]]
        chosen = max(scores, key=lambda s: ranking(s, train.matrix, validation, propensity, setting.k).ndcg)
        return ranking(chosen, train.matrix + validation, test, propensity, setting.k)

    others = {"popularity": None, "EASE on all users": EASE}
    found = asdict(best(others.get(cell.method, WideAutoencoder)))
    if cell.method in SMALL_SETS:
        # A set that only its own kernel understands is of little use.
        found |= {"EASE": best(EASE).ndcg, "nearest": nearest_user(users.rows, train.matrix)}
    return {**found, "numbers": users.numbers, "seconds": seconds}


def nearest_user(users: Tensor, real: Tensor) -> float:
    """Return the mean over users of the Jaccard index with the nearest real user: 1 for copies.

    Args:
        users: Rows in 0..1, (M, I); the index is the sum of smaller over the sum of larger entries.
        real: Real users, (U, I).
    """
    found = []
    for user in users:
        low, high = torch.minimum(user, real).sum(1), torch.maximum(user, real).sum(1)
        found.append(float((low / high).max()))
    return statistics.fmean(found)


def _load(options: Options) -> Loaded:
    if options.data == "simulated":
        people, items = options.people, options.items  # type: ignore[attr-defined]
        rng = dd.generator("simulated")
        table = simulated_interactions(people, items, rng, tastes=6, sharpness=8.0, skew=0.8, mean_items=30.0)
    else:
        path = Path(options.root or "") / options.data
        table = Interactions.from_csv(path, least_rating=options.least_rating)  # type: ignore[attr-defined]
    return Loaded((table,), {"data": hashlib.sha256(table.matrix.numpy().tobytes()).hexdigest()})


def _points(group: Group) -> list[tuple[float | None, float]]:
    return [(r["numbers"], 100 * r["ndcg"]) for r in group.results]


BENCHMARK = Benchmark(
    prog="python -m benchmarks.recommend",
    text="Recommend from few users, real or synthetic, and from all.\n"
    "DATA is simulated, or a CSV file with columns user, item and rating, below ROOT where that is given.",
    setting=Setting,
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
