"""Recommenders in closed form: the infinitely wide autoencoder, EASE, and popularity."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from ddsdk.foundation import require, require_count
from ddsdk.training import KernelMachine, kernel_machine


@final
@dataclass(frozen=True, kw_only=True)
class WideAutoencoder:
    """Kernel ridge regression from users to users, with the kernel of an infinitely wide ReLU network.

    R = k(X', X) (k(X, X) + ridge tr k(X, X) / n I)^-1 X: the engine's kernel machine, whose labels are the users.

    Attributes:
        ridge: Ridge in units of the mean of the diagonal.
        depth: Number of hidden layers.

    References:
        Sachdeva, Dhaliwal, Wu and McAuley, "Infinite Recommendation Networks: A Data-Centric Approach", NeurIPS 2022.
    """

    ridge: float = 1.0
    depth: int = 1

    def __post_init__(self) -> None:
        require(0 <= self.ridge < math.inf, "ridge", "be finite and not negative", self.ridge)
        require_count("depth", self.depth)

    @property
    def machine(self) -> KernelMachine:
        """Kernel and ridge."""
        return kernel_machine("fc-ntk", depth=self.depth, ridge=self.ridge)

    @torch.no_grad()
    def scores(self, users: Tensor, new: Tensor) -> Tensor:
        """Return a score of each item for each new user, (N, I) float64.

        Args:
            users: Rows of users to learn from, (n, I), real or synthetic.
            new: Known items of the users to recommend to, (N, I).
        """
        return self.machine.predict(users, users, new)


@final
@dataclass(frozen=True, kw_only=True)
class EASE:
    """The linear autoencoder without a diagonal: B = I - P diag(1 / P_ii), P = (X^T X + ridge I)^-1.

    Attributes:
        ridge: Ridge added to the diagonal, > 0.

    References:
        Steck, "Embarrassingly Shallow Autoencoders for Sparse Data", WWW 2019, arXiv:1905.03375.
    """

    ridge: float = 100.0

    def __post_init__(self) -> None:
        require(0 < self.ridge < math.inf, "ridge", "be positive and finite", self.ridge)

    def scores(self, users: Tensor, new: Tensor) -> Tensor:
        """Return a score of each item for each new user, (N, I) float64; see `WideAutoencoder.scores`."""
        x = users.double()
        inverse = torch.linalg.inv(x.T @ x + self.ridge * torch.eye(x.shape[1], dtype=x.dtype))
        weights = -inverse / inverse.diagonal()
        weights.fill_diagonal_(0)
        found: Tensor = new.double() @ weights
        return found


def popularity(users: Tensor, new: Tensor) -> Tensor:
    """Return the number of `users`, (n, I), with each item, as the score for all of `new`, (N, I) float64."""
    return users.double().sum(0).expand(len(new), -1)
