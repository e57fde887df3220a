"""Interactions of users with items as a binary matrix, its split, and simulated interactions."""

from __future__ import annotations

import math
import os
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from torch import Tensor

import ddsdk as dd
from ddsdk.data import csv_rows
from ddsdk.foundation import derive, require, require_count, require_memory


@final
@dataclass(frozen=True, eq=False)
class Interactions:
    """A binary matrix of users and items.

    Attributes:
        matrix: Interactions as zeros and ones, (U, I) float32; each user has at least one item.
        users: Names of the U users.
        items: Names of the I items.

    Examples:
        >>> from ddsdk_integrations.recommend import Interactions
        >>> Interactions.from_rows([("ann", "tea", 5), ("bob", "tea", 2), ("ann", "rum", 4)]).matrix.tolist()
        [[1.0, 1.0], [1.0, 0.0]]
    """

    matrix: Tensor
    users: tuple[str, ...]
    items: tuple[str, ...]

    def __post_init__(self) -> None:
        shape = (len(self.users), len(self.items))
        require(tuple(self.matrix.shape) == shape, "matrix", f"have shape {shape}", tuple(self.matrix.shape))
        binary = bool(((self.matrix == 0) | (self.matrix == 1)).all())
        require(binary, "matrix", "hold zeros and ones", "other entries")
        require(int(self.matrix.sum(1).min()) > 0, "matrix", "have an item for each user", "a user without items")

    @classmethod
    def from_rows(cls, rows: Iterable[tuple[Hashable, Hashable, float]], *, least_rating: float = 0.0) -> Interactions:
        """Return the interactions of (user, item, rating) rows with a rating of at least `least_rating`."""
        pairs = [(str(user), str(item)) for user, item, rating in rows if rating >= least_rating]
        require(len(pairs) > 0, "rows", f"hold a rating of at least {least_rating:g}", "none")
        users, items = (tuple(dict.fromkeys(names)) for names in zip(*pairs, strict=True))
        require_memory(4 * len(users) * len(items), f"the matrix of {len(users)} users and {len(items)} items")
        user_index, item_index = ({name: i for i, name in enumerate(names)} for names in (users, items))
        matrix = torch.zeros(len(users), len(items))
        matrix[[user_index[u] for u, _ in pairs], [item_index[i] for _, i in pairs]] = 1
        return cls(matrix, users, items)

    @classmethod
    def from_csv(
        cls,
        path: str | os.PathLike[str],
        *,
        user: str = "user",
        item: str = "item",
        rating: str | None = "rating",
        least_rating: float = 0.0,
    ) -> Interactions:
        """Return the interactions of a CSV file with a header line.

        Args:
            path: Path of the CSV file.
            user: Name of the column of users.
            item: Name of the column of items.
            rating: Name of the column of ratings; None takes every row.
            least_rating: Smallest rating that counts as an interaction.
        """
        rows = csv_rows(Path(path))
        require(bool(rows), "path", "hold at least one row", os.fspath(path))
        for name in (user, item, *([] if rating is None else [rating])):
            require(name in rows[0], "columns", f"hold {name!r}", list(rows[0]))
        triples = [(row[user], row[item], 1.0 if rating is None else _number(row[rating])) for row in rows]
        return cls.from_rows(triples, least_rating=least_rating)

    def split(
        self, rng: torch.Generator, *, validation: float = 0.1, test: float = 0.1
    ) -> tuple[Interactions, Tensor, Tensor]:
        """Return a random split of each user's items: training interactions, validation (U, I) and test (U, I) items.

        The three parts are disjoint. Each user keeps at least one training item; users with fewer than three items
        keep all.

        Args:
            rng: Generator of the split.
            validation: Share of a user's items for validation, rounded, in 0 <= value < 0.5.
            test: Share of a user's items for the test, rounded to at least one item, in 0 <= value < 0.5.
        """
        for name, value in (("validation", validation), ("test", test)):
            require(0 <= value < 0.5, name, "lie in 0 <= value < 0.5", value)
        held_out = [torch.zeros_like(self.matrix) for _ in range(2)]
        training = self.matrix.clone()
        for u, row in enumerate(self.matrix):
            items = torch.nonzero(row).flatten()
            if len(items) < 3:
                continue
            order = items[torch.randperm(len(items), generator=rng)]
            count = round(validation * len(items))
            picks = order[:count], order[count : count + max(1, round(test * len(items)))]
            for part, pick in zip(held_out, picks, strict=True):
                part[u, pick] = 1
                training[u, pick] = 0
        return Interactions(training, self.users, self.items), held_out[0], held_out[1]

    def as_real(self) -> dd.RealData:
        """Return the users as image data of one class, (U, 1, 1, I) in the unit range."""
        return dd.RealData(
            self.matrix[:, None, None],
            torch.zeros(len(self.matrix), dtype=torch.int64),
            class_names=("user",),
            preprocess=dd.Preprocess.unit(1),
            name="interactions",
            pictures=False,
        )


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    require(math.isfinite(value), "ratings", "be finite numbers", text)
    return value


def simulated_interactions(
    users: int,
    items: int,
    rng: torch.Generator,
    *,
    tastes: int = 8,
    skew: float = 1.0,
    mean_items: float = 30.0,
    sharpness: float = 3.0,
) -> Interactions:
    """Return simulated interactions with skewed item popularities and a taste of each user.

    Item j has popularity (j + 1)^-skew; users and items have random unit vectors u and v_j of tastes. A user draws a
    geometric number of items, at least five, without replacement, with probabilities
    softmax(log popularity + sharpness <u, v_j>). Items without a user are left out.

    Args:
        users: Number of users U.
        items: Number of items, including those without a user.
        rng: Generator of tastes, numbers of items and draws.
        tastes: Dimensions of the taste vectors.
        skew: Exponent of the popularity; 0 for equally popular items.
        mean_items: Mean number of items of a user, above 5.
        sharpness: Weight of tastes relative to popularity.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.recommend import simulated_interactions
        >>> len(simulated_interactions(100, 40, ddsdk.generator(0)).users)
        100
    """
    for name, value in (("users", users), ("items", items), ("tastes", tastes)):
        require_count(name, value)
    require(mean_items > 5, "mean_items", "be above 5", mean_items)
    u, v = (
        torch.nn.functional.normalize(torch.randn(n, tastes, generator=derive(rng, name)), dim=1)
        for n, name in ((users, "users"), (items, "items"))
    )
    popularity_scores = -skew * torch.arange(1, items + 1).double().log()
    logits = popularity_scores + sharpness * (u @ v.T).double()
    # Gumbel top-k trick: the largest logits plus Gumbel noise are a sample without replacement.
    noise = -(-torch.rand(users, items, generator=derive(rng, "noise"), dtype=torch.float64).log()).log()
    tail = torch.rand(users, generator=derive(rng, "counts")).clamp_min(1e-9).log()
    counts = (5 + (-(mean_items - 5) * tail)).long().clamp(5, items)
    order = (logits + noise).argsort(dim=1, descending=True)
    matrix = torch.zeros(users, items)
    for row, picks, count in zip(matrix, order, counts.tolist(), strict=True):
        row[picks[:count]] = 1
    used = matrix.sum(0) > 0
    names = tuple(f"item {j}" for j in torch.nonzero(used).flatten().tolist())
    return Interactions(matrix[:, used], tuple(f"user {i}" for i in range(users)), names)
