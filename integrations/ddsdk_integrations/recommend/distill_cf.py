"""Distill-CF: a few users from which the wide autoencoder recommends to all."""

from __future__ import annotations

import csv
import dataclasses
import io
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, final

import torch
from torch import Tensor

import ddsdk as dd
from ddsdk.artefact import provenance
from ddsdk.data import Source
from ddsdk.foundation import derive, require, require_count, require_rate, write_atomic
from ddsdk.objectives import Whole
from ddsdk.recipes import adam_on_images
from ddsdk.students import FixedTeachers
from ddsdk.synthetic import hard_labels
from ddsdk.training import FullyConnectedNTK, Kernel, Ridge, solve
from ddsdk_integrations.recommend.interactions import Interactions
from ddsdk_integrations.recommend.users import GumbelUsers

__all__ = ["DistillCF", "Reconstruct", "sampled_users", "write_users"]


@final
@dataclass(frozen=True, kw_only=True)
class Reconstruct:
    """The wide autoencoder that is fitted to the set must name the items of real users.

    Yields the multinomial cross-entropy -mean sum_i t_i log softmax(f(t))_i / sum_i t_i of a batch of real users t,
    plus `sparsity` times the mean number of items of a synthetic user over that of a real one.

    Attributes:
        ridge: Gives what is added to the diagonal.
        real_batch: Real users of one step.
        sparsity: Weight of the second term.
    """

    ridge: Ridge
    real_batch: int
    sparsity: float

    def __call__(self, student: Kernel, real: Source, syn: Source, rng: torch.Generator) -> Iterator[Tensor]:
        """Yield the one loss."""
        if not isinstance(syn, Whole):
            raise TypeError(f"syn must be a set that can be taken whole, got {type(syn).__name__}")
        users = syn.whole(derive(rng, "decode")).x
        truth = real.mixed(self.real_batch, derive(rng, "real")).x
        flat, wanted = users.flatten(1).double(), truth.flatten(1).double()
        gram, cross = student(users, users), student(truth, users)
        found = cross @ solve(gram, flat, self.ridge).values
        share = wanted / wanted.sum(1, keepdim=True)
        loss = -(share * found.log_softmax(1)).sum(1).mean()
        yield loss + self.sparsity * flat.sum(1).mean() / wanted.sum(1).mean()


@final
@dataclass(frozen=True, kw_only=True)
class DistillCF:
    """Few synthetic users, learned so that the wide autoencoder fitted to them reconstructs real users.

    Attributes:
        name: What tables call the method.
        users: How many.
        steps: Of Adam.
        draws: Gumbel draws of a synthetic user.
        temperature: Of a draw.
        lr: Learning rate of the logits.
        ridge: Of the autoencoder, in units of the mean of the diagonal.
        depth: Of its network.
        real_batch: Real users of one step; a number not below that of users takes all.
        sparsity: Weight of the number of items.

    Experimental: see the measured table.

    Differences from the published algorithm: temperature and rate were chosen on validation items of simulated users.

    References:
        Sachdeva, Dhaliwal, Wu and McAuley, "Infinite Recommendation Networks: A Data-Centric Approach", NeurIPS 2022.
    """

    name: ClassVar[str] = "distill-cf"
    users: int = 50
    steps: int = 100
    draws: int = 200
    temperature: float = 3.0
    lr: float = 0.1
    ridge: float = 1.0
    depth: int = 1
    real_batch: int = 4096
    sparsity: float = 0.001

    def __post_init__(self) -> None:
        for name in ("users", "steps", "draws", "depth", "real_batch"):
            require_count(name, getattr(self, name))
        for name in ("temperature", "lr"):
            require_rate(name, getattr(self, name))
        for name in ("ridge", "sparsity"):
            require(getattr(self, name) >= 0, name, "not be negative", getattr(self, name))

    def plan(self, table: Interactions, *, rng: torch.Generator) -> dd.Plan[Any]:
        """Return the parts, ready to run; `dataclasses.replace` swaps one.

        Raises:
            ValueError: If there are fewer real users than `users`.
        """
        require(self.users <= len(table.users), "users", f"not exceed {len(table.users)}", self.users)
        real = table.as_real()
        first = real.of_class(0, self.users, derive(rng, "start")).x
        parametrization = GumbelUsers(
            torch.zeros(self.users, first.shape[3]), draws=self.draws, temperature=self.temperature
        )
        parametrization.encode(first)
        classes = torch.zeros(self.users, dtype=torch.int64)
        kernel = FullyConnectedNTK(depth=self.depth)
        return dd.Plan(
            syn=dd.SyntheticSet(parametrization, hard_labels(classes, 1), classes, 1),
            objective=Reconstruct(
                ridge=Ridge(strength=self.ridge), real_batch=self.real_batch, sparsity=self.sparsity
            ),
            students=FixedTeachers(lambda _: kernel),
            make_optimizer=partial(adam_on_images, lr=self.lr),
            steps=self.steps,
        )

    def __call__(self, table: Interactions, *, rng: torch.Generator) -> dd.Distilled:
        """Distil, and return the synthetic users as they are learned: numbers of 0..1, (M, 1, 1, I).

        Args:
            table: Training interactions; nothing held out may be in it.
            rng: Root of every random number.
        """
        began, real = time.perf_counter(), table.as_real()
        distillation = dd.Distillation(
            self.plan(table, rng=derive(rng, "plan")), real, rng=derive(rng, "steps")
        )
        for _ in distillation:
            pass
        batch = distillation.result.detached(derive(rng, "export"))
        seconds = time.perf_counter() - began
        how = {"depth": self.depth, "rule": "trace", "ridge": self.ridge}
        evaluation = dd.Evaluation(
            protocol="wide autoencoder", network="fc-ntk", network_options=how, networks=1, learner="kernel"
        )
        return dd.Distilled(
            batch.x,
            batch.y,
            class_names=real.class_names,
            preprocess=real.preprocess,
            evaluation=evaluation.to_dict(),
            provenance=provenance(self, real, rng=rng, seconds=seconds, run=distillation.record()),
        )


def sampled_users(distilled: dd.Distilled, items: int) -> dd.Distilled:
    """Return the users with their largest `items` entries as ones: sparse, and counted as one index each.

    Args:
        distilled: Synthetic users, (M, 1, 1, I).
        items: Of each user.

    Raises:
        ValueError: If the set holds no users, or a user has not so many items.
    """
    rows = _rows(distilled)
    require(1 <= items <= rows.shape[1], "items", f"lie in 1..{rows.shape[1]}", items)
    matrix = torch.zeros_like(rows).scatter_(1, rows.topk(items, dim=1).indices, 1.0)
    return dataclasses.replace(distilled, images=matrix[:, None, None], stored_floats=len(rows) * items)


def _rows(distilled: dd.Distilled) -> Tensor:
    shape = tuple(distilled.images.shape)
    require(shape[1:3] == (1, 1), "distilled", "hold users, (M, 1, 1, I)", shape)
    return distilled.images[:, 0, 0]


def write_users(distilled: dd.Distilled, items: tuple[str, ...], path: str | os.PathLike[str]) -> None:
    """Write sparse synthetic users as CSV rows of user, item and rating 1, which any recommender reads.

    Args:
        distilled: Of `sampled_users`.
        items: Names of the items.
        path: The file.

    Raises:
        ValueError: If an entry is neither zero nor one, or names do not fit.
        StorageError: If the file cannot be written.
    """
    rows = _rows(distilled)
    require(bool(((rows == 0) | (rows == 1)).all()), "distilled", "be of sampled_users", "other numbers")
    require(len(items) == rows.shape[1], "items", f"name {rows.shape[1]} items", len(items))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["user", "item", "rating"])
    writer.writerows([f"synthetic {u}", items[i], 1] for u, i in rows.nonzero().tolist())
    write_atomic(path, text.getvalue().encode())
