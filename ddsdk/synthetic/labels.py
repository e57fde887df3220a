"""The labels of a synthetic set: fixed or learned."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from ddsdk.errors import require

__all__ = ["FixedLabels", "Labels", "LearnedLabels", "hard_labels"]


class Labels(nn.Module, ABC):
    """One row of K probabilities for each slot."""

    @abstractmethod
    def rows(self, slots: Tensor) -> Tensor:
        """Return the labels of `slots`, (B,) int64, as (B, K) probabilities."""


@final
class FixedLabels(Labels):
    """Labels that stay as they are, hard or soft.

    Args:
        probabilities: (M, K), rows non-negative with sum 1.

    Raises:
        ValueError: If a row is not a distribution; the message names it.
    """

    def __init__(self, probabilities: Tensor) -> None:
        super().__init__()
        # Asked this way round, NaN is bad too.
        bad = ~((probabilities >= 0).all(1) & ((probabilities.sum(1) - 1).abs() <= 1e-4))
        for row in torch.nonzero(bad).flatten().tolist()[:1]:
            require(False, f"labels row {row}", "be probabilities that sum to 1", probabilities[row].tolist())
        self.register_buffer("probabilities", probabilities.detach().clone())
        self.probabilities: Tensor

    def rows(self, slots: Tensor) -> Tensor:
        """Return the stored rows."""
        return self.probabilities[slots]


@final
class LearnedLabels(Labels):
    """Labels that are trained with the images: the softmax of free logits.

    Args:
        logits: (M, K) at the start.
    """

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits.detach().clone())

    def rows(self, slots: Tensor) -> Tensor:
        """Return softmax rows with graph to the logits."""
        return self.logits[slots].softmax(1)


def hard_labels(classes: Tensor, num_classes: int) -> FixedLabels:
    """Return one-hot labels for `classes`, (M,) int64."""
    return FixedLabels(one_hot(classes, num_classes).float())
