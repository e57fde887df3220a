"""Distill-CF: a few users from which the wide autoencoder recommends to all."""

from __future__ import annotations

import csv
import dataclasses
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, final

import torch
from torch import Tensor

import ddsdk as dd
from ddsdk.data import Source
from ddsdk.foundation import NonNegativeFloat, PositiveFloat, PositiveInt, check_numbers, derive, require, write_atomic
from ddsdk.recipes import adam_on_images, hard_set
from ddsdk.running import IterativeMethod
from ddsdk.students import FixedTeachers, MakeStudent
from ddsdk.synthetic import SyntheticView
from ddsdk.training import FullyConnectedNTK, Kernel, Ridge, solve
from ddsdk_integrations.recommend.interactions import Interactions
from ddsdk_integrations.recommend.users import GumbelUsers


@final
@dataclass(frozen=True, kw_only=True)
class Reconstruct:
    """Reconstruct real users by the wide autoencoder that is fitted to the set.

    The loss is the multinomial cross-entropy -mean sum_i t_i log softmax(f(t))_i / sum_i t_i of real users t, plus
    `sparsity` times the mean number of items of a synthetic user over that of a real one.

    Attributes:
        ridge: Ridge of the autoencoder.
        real_batch: Real users of one step.
        sparsity: Weight of the second term.
    """

    ridge: Ridge
    real_batch: int
    sparsity: float

    def __call__(self, student: Kernel, real: Source, syn: SyntheticView, rng: torch.Generator) -> Iterator[Tensor]:
        """Yield the one loss."""
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
class DistillCF(IterativeMethod[Interactions]):
    """Few synthetic users, learned so that the wide autoencoder fitted to them reconstructs real users.

    Attributes:
        users: Number of synthetic users.
        steps: Outer steps.
        draws: Gumbel draws of a synthetic user.
        temperature: Temperature of a draw.
        lr: Learning rate of the logits (Adam).
        ridge: Ridge of the autoencoder, in units of the mean of the diagonal.
        depth: Hidden layers of the network whose kernel the autoencoder has.
        real_batch: Real users of one step; a number not below that of users takes all.
        sparsity: Weight of the number of items.

    Experimental: see the measured table. The autoencoder is a kernel machine: no step has a network.

    Differences from the published algorithm: temperature and rate were chosen on validation items of simulated users.

    References:
        Sachdeva, Dhaliwal, Wu and McAuley, "Infinite Recommendation Networks: A Data-Centric Approach", NeurIPS 2022.
    """

    name: ClassVar[str] = "distill-cf"
    users: PositiveInt = 50
    steps: PositiveInt = 100
    draws: PositiveInt = 200
    temperature: PositiveFloat = 3.0
    lr: PositiveFloat = 0.1
    ridge: NonNegativeFloat = 1.0
    depth: PositiveInt = 1
    real_batch: PositiveInt = 4096
    sparsity: NonNegativeFloat = 0.001

    def __post_init__(self) -> None:
        check_numbers(self)

    def evaluation(self, table: Interactions) -> dd.Evaluation:  # noqa: ARG002
        """Return the autoencoder itself."""
        how = {"depth": self.depth, "rule": "trace", "ridge": self.ridge}
        return dd.Evaluation(
            protocol="wide autoencoder", network="fc-ntk", network_options=how, networks=1, learner="kernel"
        )

    def source(self, table: Interactions) -> dd.RealData:
        """Return the users as items."""
        return table.as_real()

    def described(self, table: Interactions) -> dd.RealData:
        """Return the users as items."""
        return table.as_real()

    def plan(self, table: Interactions, *, make_student: MakeStudent, rng: torch.Generator) -> dd.Plan[Any]:  # noqa: ARG002
        """Return the parts, ready to run; there must be no fewer real users than `users`."""
        require(self.users <= len(table.users), "users", f"not exceed {len(table.users)}", self.users)
        real = table.as_real()
        first = real.of_class(0, self.users, derive(rng, "start")).x
        users = GumbelUsers(torch.zeros(self.users, first.shape[3]), draws=self.draws, temperature=self.temperature)
        users.encode(first)
        kernel = FullyConnectedNTK(depth=self.depth)
        return dd.Plan(
            syn=hard_set(real, self.users, users),
            objective=Reconstruct(ridge=Ridge(strength=self.ridge), real_batch=self.real_batch, sparsity=self.sparsity),
            students=FixedTeachers(lambda _: kernel),
            make_optimizer=partial(adam_on_images, lr=self.lr),
            steps=self.steps,
        )


def sampled_users(distilled: dd.Distilled, items: int) -> dd.Distilled:
    """Return synthetic users (M, 1, 1, I) with their largest `items` entries as ones, counted as one index each."""
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
        distilled: Set of `sampled_users`.
        items: Names of the items.
        path: Path of the file.
    """
    rows = _rows(distilled)
    require(bool(((rows == 0) | (rows == 1)).all()), "distilled", "be of sampled_users", "other numbers")
    require(len(items) == rows.shape[1], "items", f"name {rows.shape[1]} items", len(items))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["user", "item", "rating"])
    writer.writerows([f"synthetic {u}", items[i], 1] for u, i in rows.nonzero().tolist())
    write_atomic(path, text.getvalue().encode())
