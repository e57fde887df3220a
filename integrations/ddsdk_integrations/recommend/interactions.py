"""Interactions of users with items: a binary table, split user by user."""

from __future__ import annotations

import csv
import os
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from torch import Tensor

import ddsdk as dd
from ddsdk.foundation import derive, require, require_count


@final
@dataclass(frozen=True, eq=False)
class Interactions:
    """A binary matrix of users and items.

    Attributes:
        matrix: Zeros and ones, (U, I) float32; each user has at least one item.
        users: U names.
        items: I names.

    Raises:
        ValueError: If the matrix is not binary, names do not fit, or a user has no item.
    """

    matrix: Tensor
    users: tuple[str, ...]
    items: tuple[str, ...]

    def __post_init__(self) -> None:
        wanted = (len(self.users), len(self.items))
        require(tuple(self.matrix.shape) == wanted, "matrix", f"have shape {wanted}", tuple(self.matrix.shape))
        binary = bool(((self.matrix == 0) | (self.matrix == 1)).all())
        require(binary, "matrix", "hold zeros and ones", "others")
        require(int(self.matrix.sum(1).min()) > 0, "matrix", "give each user an item", "a user without")

    @classmethod
    def from_rows(cls, rows: Iterable[tuple[Hashable, Hashable, float]], *, least_rating: float = 0.0) -> Interactions:
        """Return the table of (user, item, rating) rows in any order; ratings below the least do not count."""
        pairs = [(str(user), str(item)) for user, item, rating in rows if rating >= least_rating]
        require(len(pairs) > 0, "rows", "hold a rating that counts", 0)
        users, items = (tuple(dict.fromkeys(names)) for names in zip(*pairs, strict=True))
        of_user, of_item = ({name: i for i, name in enumerate(names)} for names in (users, items))
        matrix = torch.zeros(len(users), len(items))
        matrix[[of_user[u] for u, _ in pairs], [of_item[i] for _, i in pairs]] = 1
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
        """Return the table of a CSV file with a head.

        Args:
            path: Path of the file.
            user: Name of the column of users.
            item: Name of the column of items.
            rating: Name of the column of ratings; None takes every row.
            least_rating: Least rating of a row that counts.
        """
        with Path(path).open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            for name in (user, item, *([] if rating is None else [rating])):
                require(name in (reader.fieldnames or ()), "columns", f"hold {name!r}", reader.fieldnames)
            rows = [(row[user], row[item], 1.0 if rating is None else float(row[rating])) for row in reader]
        return cls.from_rows(rows, least_rating=least_rating)

    def split(
        self, rng: torch.Generator, *, validation: float = 0.1, test: float = 0.1
    ) -> tuple[Interactions, Tensor, Tensor]:
        """Hold out items of each user at random: (the rest, validation (U, I), test (U, I)), disjoint.

        A user keeps at least one item; one with fewer than three has nothing held out.

        Args:
            rng: Generator of the choice.
            validation: Share of a user's items for validation, rounded, in 0 <= value < 0.5.
            test: Share of a user's items for the test, rounded to at least one, in 0 <= value < 0.5.
        """
        for name, value in (("validation", validation), ("test", test)):
            require(0 <= value < 0.5, name, "lie in 0 <= value < 0.5", value)
        parts = [torch.zeros_like(self.matrix) for _ in range(2)]
        rest = self.matrix.clone()
        for u, row in enumerate(self.matrix):
            own = torch.nonzero(row).flatten()
            if len(own) < 3:
                continue
            order = own[torch.randperm(len(own), generator=rng)]
            first = round(validation * len(own))
            picks = order[:first], order[first : first + max(1, round(test * len(own)))]
            for part, pick in zip(parts, picks, strict=True):
                part[u, pick] = 1
                rest[u, pick] = 0
        return Interactions(rest, self.users, self.items), parts[0], parts[1]

    def as_real(self) -> dd.RealData:
        """Return the users as real data of one class, (U, 1, 1, I) in the unit range."""
        return dd.RealData(
            self.matrix[:, None, None],
            torch.zeros(len(self.matrix), dtype=torch.int64),
            class_names=("user",),
            preprocess=dd.Preprocess.unit(1),
            name="interactions",
            pictures=False,
        )


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
    """Return interactions of people with tastes, for items some of which are far more popular than others.

    Item j has popularity (j + 1)^-skew, and user u and item j vectors of tastes; u takes a geometric
    number of items, at least five, without replacement, with probabilities softmax(log popularity + sharpness <u, j>).

    Args:
        users: Number of users.
        items: Number of items.
        rng: Generator of everything.
        tastes: Dimensions of the vectors, which have length 1.
        skew: Exponent of the popularity; 0 for items that are alike.
        mean_items: Mean number of items of a user, above 5.
        sharpness: Weight of tastes against popularity.
    """
    for name, value in (("users", users), ("items", items), ("tastes", tastes)):
        require_count(name, value)
    require(mean_items > 5, "mean_items", "be above 5", mean_items)
    u, v = (
        torch.nn.functional.normalize(torch.randn(n, tastes, generator=derive(rng, name)), dim=1)
        for n, name in ((users, "users"), (items, "items"))
    )
    popularity = -skew * torch.arange(1, items + 1).double().log()
    logits = popularity + sharpness * (u @ v.T).double()
    # The largest of logits plus Gumbel noise are draws without replacement.
    noise = -(-torch.rand(users, items, generator=derive(rng, "noise"), dtype=torch.float64).log()).log()
    tail = torch.rand(users, generator=derive(rng, "counts")).clamp_min(1e-9).log()
    counts = (5 + (-(mean_items - 5) * tail)).long().clamp(5, items)
    order = (logits + noise).argsort(dim=1, descending=True)
    matrix = torch.zeros(users, items)
    for row, picks, count in zip(matrix, order, counts.tolist(), strict=True):
        row[picks[:count]] = 1
    seen = matrix.sum(0) > 0
    names = tuple(f"item {j}" for j in torch.nonzero(seen).flatten().tolist())
    return Interactions(matrix[:, seen], tuple(f"user {i}" for i in range(users)), names)
