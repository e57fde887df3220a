"""The labels of a synthetic set: fixed or learned, probabilities or scores."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal, final, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from ddsdk.foundation import require

LabelSpace = Literal["probabilities", "scores"]
"""Whether rows are distributions, or any real numbers that a network's outputs are compared with."""

LabelReading = Literal["stored", "probabilities", "hard"]
"""Labels for training: the rows as they are, their `nearest_distributions`, or the rows `hardened`."""


class Labels(nn.Module, ABC):
    """One row of K numbers for each slot.

    Attributes:
        space: Space of the rows; the artefact keeps it as `label_space`.
    """

    space: LabelSpace

    @abstractmethod
    def rows(self, slots: Tensor) -> Tensor:
        """Return the labels of `slots`, (B,) int64, as rows (B, K) of `space`, with graph where they are learned."""

    def project_(self) -> None:
        """Bring the stored tensors back to their admissible range, in place, after an optimizer step."""

    def assign_(self, slots: Tensor, rows: Tensor) -> bool:  # noqa: ARG002
        """Store `rows`, (B, K), at `slots` if the labels are learned; return whether they are."""
        return False


@final
class FixedLabels(Labels):
    """Labels that stay as they are, hard or soft.

    Args:
        probabilities: Rows, (M, K), non-negative with sum 1; in the space ``"scores"`` any finite numbers.
        space: Space of the rows.
    """

    def __init__(self, probabilities: Tensor, *, space: LabelSpace = "probabilities") -> None:
        super().__init__()
        _check_rows(probabilities, space)
        self.space = space
        self.register_buffer("probabilities", probabilities.detach().clone())
        self.probabilities: Tensor

    def rows(self, slots: Tensor) -> Tensor:
        """Return the stored rows."""
        return self.probabilities[slots]


@final
class LearnedLabels(Labels):
    """Labels that are trained with the images: the softmax of free logits.

    Args:
        logits: Logits at the start, (M, K).
    """

    space = "probabilities"

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits.detach().clone())

    def rows(self, slots: Tensor) -> Tensor:
        """Return the softmax of the logits."""
        return self.logits[slots].softmax(1)

    @torch.no_grad()
    def assign_(self, slots: Tensor, rows: Tensor) -> bool:
        """Store the logarithms of `rows`, whose softmax they are; zeros become the smallest normal number."""
        self.logits[slots] = rows.clamp_min(torch.finfo(rows.dtype).tiny).log()
        return True


class TrainedRows(Labels, ABC):
    """Rows that are trained as they are.

    Args:
        values: Rows at the start, (M, K), which belong to `space`.
    """

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        _check_rows(values, self.space)
        self.values = nn.Parameter(values.detach().clone())

    @final
    def rows(self, slots: Tensor) -> Tensor:
        """Return the stored rows."""
        return self.values[slots]

    @final
    @torch.no_grad()
    def assign_(self, slots: Tensor, rows: Tensor) -> bool:
        """Store `rows` as they are."""
        self.values[slots] = rows
        return True


@final
class FreeLabels(TrainedRows):
    """Rows of any finite numbers.

    Regression fits them with squared error, where centred rows sum to 0. SLDD puts them into cross-entropy,
    -sum(y log_softmax(f(x))), which is defined for any real y.

    Args:
        values: Rows at the start, (M, K).
        low: Lowest entry, or None for no bound.
    """

    space = "scores"

    def __init__(self, values: Tensor, low: float | None = None) -> None:
        super().__init__(values)
        self._low = low

    @torch.no_grad()
    def project_(self) -> None:
        """Raise entries below `low` to it."""
        if self._low is not None:
            self.values.clamp_(min=self._low)


@final
class SimplexLabels(TrainedRows):
    """Distributions, rows that are non-negative with sum 1, which are projected after each step."""

    space = "probabilities"

    @torch.no_grad()
    def project_(self) -> None:
        """Clamp entries to [0, 1] and divide each row by its sum; a row without any mass becomes uniform."""
        rows = self.values.clamp_(0, 1)
        empty = rows.sum(1) <= 0
        rows[empty] = 1
        rows.div_(rows.sum(1, keepdim=True))


def hard_labels(classes: Tensor, num_classes: int) -> FixedLabels:
    """Return one-hot labels for `classes`, (M,) int64."""
    return FixedLabels(one_hot(classes, num_classes).float())


def centred_labels(classes: Tensor, num_classes: int, scale: float = 1.0) -> Tensor:
    """Return scale (one-hot - 1/K), (M, K): rows with mean 0, for regression on labels.

    Args:
        classes: Class of each slot, (M,) int64.
        num_classes: Number of classes K.
        scale: Factor; 1 in KIP, sqrt(10 / K) in FRePo's code.
    """
    return scale * (one_hot(classes, num_classes).float() - 1 / num_classes)


def nearest_distributions(rows: Tensor) -> Tensor:
    """Return the distribution that is nearest to each row in the Euclidean sense: max(y - t, 0), t giving sum 1.

    It needs no temperature, leaves distributions as they are, and ignores a constant that is added to a row: from
    centred one-hot rows it gives the one-hot rows back, where their softmax would be next to uniform.

    References:
        Duchi et al., "Efficient Projections onto the l1-Ball for Learning in High Dimensions", ICML 2008.
    """
    # Less its largest entry, a row of huge numbers loses no digits in the sums.
    exact = rows.detach().double()
    exact = exact - exact.amax(1, keepdim=True)
    falling = exact.sort(1, descending=True).values
    count = torch.arange(1, rows.shape[1] + 1, device=rows.device)
    cuts = (falling.cumsum(1) - 1) / count
    kept = (falling > cuts).sum(1, keepdim=True)
    return (exact - cuts.gather(1, kept - 1)).clamp_min(0).to(rows.dtype)


def hardened(rows: Tensor) -> Tensor:
    """Return one-hot rows of each row's largest class, the first of equals."""
    return one_hot(rows.argmax(1), rows.shape[1]).to(rows.dtype)


def read_labels(rows: Tensor, reading: LabelReading) -> Tensor:
    """Return label rows (M, K) in one of the readings."""
    require(reading in get_args(LabelReading), "labels", f"be one of {list(get_args(LabelReading))}", reading)
    if reading == "stored":
        return rows
    return nearest_distributions(rows) if reading == "probabilities" else hardened(rows)


def _check_rows(rows: Tensor, space: LabelSpace) -> None:
    if space == "scores":
        good, rule = torch.isfinite(rows).all(1), "be finite"
    else:
        # This way round, NaN is bad too.
        good = (rows >= 0).all(1) & ((rows.sum(1) - 1).abs() <= 1e-4)
        rule = "be probabilities that sum to 1"
    for row in torch.nonzero(~good).flatten().tolist()[:1]:
        require(False, f"labels row {row}", rule, rows[row].tolist())
