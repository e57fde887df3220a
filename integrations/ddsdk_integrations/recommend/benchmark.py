"""Recommendations from few users, real or synthetic, beside those from all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import ddsdk as dd
from ddsdk.experiments import by_method, empty_figure, markdown_table, percent
from ddsdk.foundation import derive, require, require_count
from ddsdk_integrations.recommend.autoencoder import EASE, WideAutoencoder, popularity
from ddsdk_integrations.recommend.distill_cf import DistillCF, sampled_users
from ddsdk_integrations.recommend.interactions import Interactions
from ddsdk_integrations.recommend.metrics import Ranking, propensities, ranking

Found = Mapping[str, Any]
ROWS = (
    "popularity",
    "EASE on all users",
    "autoencoder on all users",
    "random users",
    "users with most items",
    "Distill-CF",
    "sparse Distill-CF",
)
_RIDGES = {"autoencoder": (0.1, 0.3, 1.0, 3.0, 10.0), "EASE": (3.0, 10.0, 30.0, 100.0, 300.0)}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all cells of a table share.

    Attributes:
        users: Of a small set.
        steps: Of Distill-CF.
        draws: Of a synthetic user.
        k: How many items are recommended.
    """

    users: int = 50
    steps: int = 200
    draws: int = 200
    k: int = 10

    def __post_init__(self) -> None:
        for name in ("users", "steps", "draws", "k"):
            require_count(name, getattr(self, name))


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A row and a seed, of split, choice and distilling."""

    method: str
    seed: int


def measure(cell: Cell, setting: Setting, table: Interactions) -> dict[str, Any]:
    """Run one cell and return what the table needs, JSON values.

    Ridges are chosen by nDCG on validation items, for each row; test items are read once.

    Args:
        cell: The row.
        setting: What all share.
        table: All interactions.
    """
    rng = dd.generator("recommend", cell.seed)
    train, validation, test = table.split(derive(rng, "split"))
    began = time.perf_counter()
    users, numbers = _small(cell.method, setting, train, derive(rng, "set"))
    seconds = time.perf_counter() - began
    case = _Case(train=train.matrix, validation=validation, test=test, k=setting.k)
    kind = cell.method.split()[0] if cell.method in ROWS[:2] else "autoencoder"
    found = {"own": asdict(case.best(kind, users))}
    if cell.method not in ROWS[:3]:
        # A set that only its own kernel understands is of little use.
        found["EASE"] = asdict(case.best("EASE", users))
        found["nearest"] = {"jaccard": nearest_user(users, train.matrix)}
    return {"cell": asdict(cell), **found, "numbers": numbers, "seconds": seconds}


def _small(method: str, setting: Setting, train: Interactions, rng: torch.Generator) -> tuple[Tensor, int]:
    """Return the users to learn from, and how many numbers they take: an index for each one of sparse users."""
    x = train.matrix
    require(setting.users <= len(x), "users", f"not exceed {len(x)}", setting.users)
    if method in ROWS[:3]:
        return x, int(x.sum())
    if method in ROWS[3:5]:
        order = torch.randperm(len(x), generator=rng) if method == ROWS[3] else x.sum(1).argsort(descending=True)
        picked = x[order[: setting.users]]
        return picked, int(picked.sum())
    recipe = DistillCF(users=setting.users, steps=setting.steps, draws=setting.draws)
    made = dd.distill(recipe, train, seed=rng)
    if method == ROWS[6]:
        made = sampled_users(made, round(float(x.sum(1).mean())))
    return made.images[:, 0, 0], made.stored_floats


@dataclass(frozen=True, kw_only=True)
class _Case:
    """What recommenders are tested on."""

    train: Tensor
    validation: Tensor
    test: Tensor
    k: int

    def best(self, kind: str, users: Tensor) -> Ranking:
        """Return the test figures under the ridge that is best on validation items."""
        propensity = propensities(self.train.sum(0))
        if kind == "popularity":
            scores = [popularity(users, self.train)]
        else:
            build = EASE if kind == "EASE" else WideAutoencoder
            scores = [build(ridge=ridge).scores(users, self.train) for ridge in _RIDGES[kind]]
        chosen = max(scores, key=lambda s: ranking(s, self.train, self.validation, propensity, self.k).ndcg)
        return ranking(chosen, self.train + self.validation, self.test, propensity, self.k)


def nearest_user(users: Tensor, real: Tensor) -> float:
    """Return how like the nearest real user a synthetic one is, the mean Jaccard index over users: 1 for a copy.

    Args:
        users: (M, I) in 0..1; sum of smaller over sum of larger entries.
        real: (U, I).
    """
    found = []
    for user in users:
        low, high = torch.minimum(user, real).sum(1), torch.maximum(user, real).sum(1)
        found.append(float((low / high).max()))
    return statistics.fmean(found)


_HEADS = ("from", "nDCG, %", "HR, %", "PSP, %", "by EASE, %", "like a real user", "numbers kept", "seconds", "runs")


def markdown(cells: Sequence[Found]) -> str:
    """Return the table: the mean over runs.

    Args:
        cells: What `measure` returned.
    """
    rows = []
    for name, group in by_method(cells).items():
        others = ["–", "–"]
        if "EASE" in group[0]:
            near = statistics.fmean(cell["nearest"]["jaccard"] for cell in group)
            others = [percent([cell["EASE"]["ndcg"] for cell in group]), f"{near:.2f}"]
        own = [percent([cell["own"][key] for cell in group]) for key in ("ndcg", "hits", "psp")]
        counted = [statistics.fmean(cell[key] for cell in group) for key in ("numbers", "seconds")]
        rows.append([name, *own, *others, f"{counted[0]:.0f}", f"{counted[1]:.0f}", str(len(group))])
    return markdown_table(_HEADS, rows)


def plot(cells: Sequence[Found], path: Path) -> None:
    """Draw nDCG and propensity-scored precision of each row.

    Args:
        cells: What `measure` returned.
        path: The picture.
    """
    figure = empty_figure(7.5, 3.6)
    axes, names = figure.subplots(), list(by_method(cells))
    for k, (key, label) in enumerate((("ndcg", "nDCG"), ("psp", "precision by propensity"))):
        means = [100 * statistics.fmean(c["own"][key] for c in cells if c["cell"]["method"] == n) for n in names]
        axes.barh([i + 0.35 * k for i in range(len(names))], means, height=0.33, label=label)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel("first ten items, %")
    figure.legend(loc="outside right center", fontsize=8)
    figure.savefig(path, dpi=120)
