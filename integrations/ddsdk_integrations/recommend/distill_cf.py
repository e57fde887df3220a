"""Distill-CF: synthetic users for recommendation by the infinitely wide autoencoder."""

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
from ddsdk.recipes import adam_on_images, hard_label_set
from ddsdk.running import IterativeMethod
from ddsdk.students import FixedTeachers, MakeStudent
from ddsdk.synthetic import SyntheticView
from ddsdk.training import FullyConnectedNTK, Kernel, Ridge, solve
from ddsdk_integrations.recommend.interactions import Interactions
from ddsdk_integrations.recommend.users import GumbelUsers


@final
@dataclass(frozen=True, kw_only=True)
class ReconstructionLoss:
    """The objective of Distill-CF: reconstruct real users by the autoencoder that is fitted to synthetic users.

    The loss is the multinomial cross-entropy -mean sum_i t_i log softmax(f(t))_i / sum_i t_i of real users t, plus
    `sparsity` times the mean number of items of a synthetic user, relative to that of a real user.

    Attributes:
        ridge: Ridge of the autoencoder's regression.
        real_batch: Real users of one step.
        sparsity: Weight of the sparsity term, >= 0.
    """

    ridge: Ridge
    real_batch: int
    sparsity: float

    def __call__(self, student: Kernel, real: Source, syn: SyntheticView, rng: torch.Generator) -> Iterator[Tensor]:
        """Yield the loss of one batch of real users."""
        synthetic_users = syn.whole(derive(rng, "decode")).x
        real_users = real.mixed(self.real_batch, derive(rng, "real")).x
        synthetic_rows, real_rows = synthetic_users.flatten(1).double(), real_users.flatten(1).double()
        gram, cross = student(synthetic_users, synthetic_users), student(real_users, synthetic_users)
        scores = cross @ solve(gram, synthetic_rows, self.ridge).values
        target = real_rows / real_rows.sum(1, keepdim=True)
        loss = -(target * scores.log_softmax(1)).sum(1).mean()
        yield loss + self.sparsity * synthetic_rows.sum(1).mean() / real_rows.sum(1).mean()


@final
@dataclass(frozen=True, kw_only=True)
class DistillCF(IterativeMethod[Interactions]):
    """Distill-CF: learn synthetic users such that the wide autoencoder fitted to them reconstructs real users.

    The autoencoder is kernel ridge regression, so no network is trained. The recipe is experimental:
    docs/integrations/recommend.md compares it with random users.

    Attributes:
        users: Number of synthetic users, at most the number of real ones.
        steps: Outer steps of the run.
        draws: Gumbel-softmax samples that are summed for a synthetic user.
        temperature: Temperature of the Gumbel softmax, > 0.
        lr: Learning rate of the logits (Adam).
        ridge: Ridge of the autoencoder, in units of the mean of the Gram matrix's diagonal.
        depth: Hidden layers of the infinitely wide network.
        real_batch: Real users of one step, at most all.
        sparsity: Weight of the mean number of items of a synthetic user in the loss.

    Differences from the published algorithm: temperature and learning rate were chosen on validation items of simulated
    users.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.recommend import DistillCF, simulated_interactions
        >>> table = simulated_interactions(100, 40, ddsdk.generator(0))
        >>> len(ddsdk.distill(DistillCF(users=10, steps=2, draws=20), table))
        10

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

    def protocol(self, table: Interactions) -> dd.TrainingProtocol:  # noqa: ARG002
        """Return the protocol of the wide autoencoder, kernel ridge regression."""
        options = {"depth": self.depth, "rule": "trace", "ridge": self.ridge}
        return dd.TrainingProtocol(
            name="wide autoencoder", network="fc-ntk", network_options=options, networks=1, learner="kernel"
        )

    def source(self, table: Interactions) -> dd.RealData:
        """Return the real users as image data, see `Interactions.as_real`."""
        return table.as_real()

    def described(self, table: Interactions) -> dd.RealData:
        """Return the real users as image data, whose facts the provenance records."""
        return table.as_real()

    def plan(self, table: Interactions, *, make_student: MakeStudent, rng: torch.Generator) -> dd.Plan[Any]:  # noqa: ARG002
        """Return the plan of Distill-CF; synthetic users start as random real ones."""
        require(self.users <= len(table.users), "users", f"not exceed {len(table.users)}", self.users)
        real = table.as_real()
        start = real.of_class(0, self.users, derive(rng, "start")).x
        users = GumbelUsers(torch.zeros(self.users, start.shape[3]), draws=self.draws, temperature=self.temperature)
        users.encode(start)
        kernel = FullyConnectedNTK(depth=self.depth)
        return dd.Plan(
            syn=hard_label_set(real, self.users, users),
            objective=ReconstructionLoss(
                ridge=Ridge(strength=self.ridge), real_batch=self.real_batch, sparsity=self.sparsity
            ),
            students=FixedTeachers(lambda _: kernel),
            make_optimizer=partial(adam_on_images, lr=self.lr),
            steps=self.steps,
        )


def sampled_users(distilled: dd.Distilled, items: int) -> dd.Distilled:
    """Return synthetic users as binary rows, (M, 1, 1, I): ones at the `items` largest entries of each user.

    The storage budget is one index for each item, M times `items`.

    Args:
        distilled: Synthetic users from `DistillCF`.
        items: Items of each user, in 1..I.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.recommend import DistillCF, sampled_users, simulated_interactions
        >>> users = ddsdk.distill(DistillCF(users=10, steps=2), simulated_interactions(100, 40, ddsdk.generator(0)))
        >>> sampled_users(users, 5).stored_floats
        50
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
    """Write binary synthetic users as CSV rows of user, item and rating 1, the usual input of recommenders.

    Args:
        distilled: Binary synthetic users from `sampled_users`.
        items: Names of the I items.
        path: Path of the CSV file.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.recommend import DistillCF, sampled_users, simulated_interactions, write_users
        >>> table = simulated_interactions(100, 40, ddsdk.generator(0))
        >>> users = ddsdk.distill(DistillCF(users=10, steps=2, draws=20), table)
        >>> write_users(sampled_users(users, 5), table.items, "users.csv")
    """
    rows = _rows(distilled)
    require(bool(((rows == 0) | (rows == 1)).all()), "distilled", "come from sampled_users", "entries besides 0 and 1")
    require(len(items) == rows.shape[1], "items", f"name {rows.shape[1]} items", len(items))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["user", "item", "rating"])
    writer.writerows([f"synthetic {u}", items[i], 1] for u, i in rows.nonzero().tolist())
    write_atomic(path, text.getvalue().encode())
