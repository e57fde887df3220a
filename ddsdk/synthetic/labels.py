"""Labels of a synthetic set: fixed or learned, probabilities or scores."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal, final, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from ddsdk.foundation import require

LabelSpace = Literal["probabilities", "scores"]
"""Meaning of label rows: probability distributions, or real numbers to which network outputs are compared."""

LabelReading = Literal["stored", "probabilities", "hard"]
"""Labels for training: the stored rows, their `nearest_distributions`, or one-hot rows of the largest entry."""


class Labels(nn.Module, ABC):
    """One label row of K numbers for each slot.

    Attributes:
        space: Space of the rows, probabilities or scores; the artefact stores it as `label_space`.
    """

    space: LabelSpace

    @abstractmethod
    def rows(self, slots: Tensor) -> Tensor:
        """Return the label rows of `slots`, (B,) int64, as (B, K) in `space`, with graph if the labels are learned."""

    def project_(self) -> None:
        """Project the stored rows to their admissible range, in place, after an optimizer step."""

    def assign_(self, slots: Tensor, rows: Tensor) -> bool:  # noqa: ARG002
        """Store `rows`, (B, K), at `slots` if the labels are learned.

        Returns:
            Whether the labels are learned, and the rows were stored.
        """
        return False


@final
class FixedLabels(Labels):
    """Fixed labels, hard or soft.

    Args:
        probabilities: Label rows, (M, K), non-negative with sum 1; in the space ``"scores"`` any finite numbers.
        space: Space of the rows, ``"probabilities"`` or ``"scores"``.

    Examples:
        >>> import torch
        >>> from ddsdk.synthetic import FixedLabels
        >>> labels = FixedLabels(torch.tensor([[0.5, 0.5], [0.0, 1.0]]))
        >>> labels.rows(torch.tensor([1])).tolist()
        [[0.0, 1.0]]
    """

    def __init__(self, probabilities: Tensor, *, space: LabelSpace = "probabilities") -> None:
        super().__init__()
        _check_rows(probabilities, space)
        self.space = space
        self.register_buffer("probabilities", probabilities.detach().clone())
        self.probabilities: Tensor

    def rows(self, slots: Tensor) -> Tensor:
        """Return the stored rows of `slots`."""
        return self.probabilities[slots]


@final
class LearnedLabels(Labels):
    """Labels that are learned with the images: the softmax of unconstrained logits.

    Args:
        logits: Initial logits, real numbers (M, K).

    Examples:
        >>> import torch
        >>> from ddsdk.synthetic import LearnedLabels
        >>> labels = LearnedLabels(torch.zeros(10, 4))
        >>> labels.rows(torch.tensor([0])).tolist()
        [[0.25, 0.25, 0.25, 0.25]]
    """

    space = "probabilities"

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits.detach().clone())

    def rows(self, slots: Tensor) -> Tensor:
        """Return the softmax of the logits of `slots`."""
        return self.logits[slots].softmax(1)

    @torch.no_grad()
    def assign_(self, slots: Tensor, rows: Tensor) -> bool:
        """Store the logarithms of `rows`, whose softmax gives the rows; zeros become the smallest normal number.

        Returns:
            True, because the labels are learned.
        """
        self.logits[slots] = rows.clamp_min(torch.finfo(rows.dtype).tiny).log()
        return True


class TrainedRows(Labels, ABC):
    """Label rows that are learned directly, without a softmax.

    Args:
        values: Initial label rows in `space`, (M, K).
    """

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        _check_rows(values, self.space)
        self.values = nn.Parameter(values.detach().clone())

    @final
    def rows(self, slots: Tensor) -> Tensor:
        """Return the rows of `slots`."""
        return self.values[slots]

    @final
    @torch.no_grad()
    def assign_(self, slots: Tensor, rows: Tensor) -> bool:
        """Store `rows` at `slots`.

        Returns:
            True, because the labels are learned.
        """
        self.values[slots] = rows
        return True


@final
class FreeLabels(TrainedRows):
    """Learned label rows of any finite numbers.

    Regression fits them with squared error, where centred rows sum to 0. SLDD uses them in the cross-entropy -sum(y
    log_softmax(f(x))), which is defined for any real y.

    Args:
        values: Initial label rows, finite numbers (M, K).
        low: Lower bound of the entries; None for no bound.

    Examples:
        >>> import torch
        >>> from ddsdk.synthetic import FreeLabels
        >>> labels = FreeLabels(torch.tensor([[0.75, -0.25]]), low=0.0)
        >>> labels.project_()
        >>> labels.rows(torch.tensor([0])).tolist()
        [[0.75, 0.0]]
    """

    space = "scores"

    def __init__(self, values: Tensor, low: float | None = None) -> None:
        super().__init__(values)
        self._low = low

    @torch.no_grad()
    def project_(self) -> None:
        """Clamp entries below `low` to `low`."""
        if self._low is not None:
            self.values.clamp_(min=self._low)


@final
class SimplexLabels(TrainedRows):
    """Learned probability distributions, which are projected to non-negative rows with sum 1 after each step.

    Args:
        values: Initial distributions, (M, K), non-negative with sum 1.

    Examples:
        >>> import torch
        >>> from ddsdk.synthetic import SimplexLabels
        >>> labels = SimplexLabels(torch.full((10, 4), 0.25))
        >>> _ = labels.assign_(torch.tensor([0]), torch.tensor([[2.0, -1.0, 1.0, 0.0]]))
        >>> labels.project_()
        >>> labels.rows(torch.tensor([0])).tolist()
        [[0.5, 0.0, 0.5, 0.0]]
    """

    space = "probabilities"

    @torch.no_grad()
    def project_(self) -> None:
        """Clamp entries to [0, 1] and divide each row by its sum; a row of zeros becomes uniform."""
        rows = self.values.clamp_(0, 1)
        empty = rows.sum(1) <= 0
        rows[empty] = 1
        rows.div_(rows.sum(1, keepdim=True))


def hard_labels(classes: Tensor, num_classes: int) -> FixedLabels:
    """Return one-hot labels of `classes`, (M,) int64.

    Examples:
        >>> import torch
        >>> from ddsdk.synthetic import hard_labels
        >>> hard_labels(torch.tensor([1, 0]), 3).rows(torch.tensor([0])).tolist()
        [[0.0, 1.0, 0.0]]
    """
    return FixedLabels(one_hot(classes, num_classes).float())


def centred_labels(classes: Tensor, num_classes: int, scale: float = 1.0) -> Tensor:
    """Return the label rows scale (one-hot - 1/K), (M, K), for regression on labels; each row has mean 0.

    Args:
        classes: Class of each slot, (M,) int64.
        num_classes: Number of classes, K in the formula.
        scale: Factor on the rows, 1 in KIP and sqrt(10 / K) in FRePo's code.

    Examples:
        >>> import torch
        >>> from ddsdk.synthetic import centred_labels
        >>> centred_labels(torch.tensor([0]), 2).tolist()
        [[0.5, -0.5]]
    """
    return scale * (one_hot(classes, num_classes).float() - 1 / num_classes)


def nearest_distributions(rows: Tensor) -> Tensor:
    """Return the nearest probability distribution to each row y in Euclidean distance: max(y - t, 0) with sum 1.

    This projection has no temperature, keeps distributions unchanged, and ignores a constant that is added to a row.
    From centred one-hot rows it recovers the one-hot rows, while their softmax is close to uniform.

    References:
        Duchi et al., "Efficient Projections onto the l1-Ball for Learning in High Dimensions", ICML 2008.

    Examples:
        >>> import torch
        >>> from ddsdk.synthetic import nearest_distributions
        >>> nearest_distributions(torch.tensor([[0.5, -0.5]])).tolist()
        [[1.0, 0.0]]
    """
    # The projection ignores constants. Shifted by its maximum, a row of huge numbers loses no digits in the sums.
    exact = rows.detach().double()
    exact = exact - exact.amax(1, keepdim=True)
    descending = exact.sort(1, descending=True).values
    count = torch.arange(1, rows.shape[1] + 1, device=rows.device)
    # With the k largest entries positive, t is their (sum - 1) / k; the support is the largest k with y_k > t.
    thresholds = (descending.cumsum(1) - 1) / count
    support = (descending > thresholds).sum(1, keepdim=True)
    return (exact - thresholds.gather(1, support - 1)).clamp_min(0).to(rows.dtype)


def one_hot_rows(rows: Tensor) -> Tensor:
    """Return the one-hot row of each row's largest entry; the first one of equal entries counts."""
    return one_hot(rows.argmax(1), rows.shape[1]).to(rows.dtype)


def read_labels(rows: Tensor, reading: LabelReading) -> Tensor:
    """Return label rows (M, K) in the form `reading`: stored, probabilities or hard.

    Examples:
        >>> import torch
        >>> from ddsdk.synthetic import read_labels
        >>> read_labels(torch.tensor([[0.25, 0.75]]), "hard").tolist()
        [[0.0, 1.0]]
    """
    require(reading in get_args(LabelReading), "labels", f"be one of {list(get_args(LabelReading))}", reading)
    if reading == "stored":
        return rows
    return nearest_distributions(rows) if reading == "probabilities" else one_hot_rows(rows)


def _check_rows(rows: Tensor, space: LabelSpace) -> None:
    if space == "scores":
        valid, rule = torch.isfinite(rows).all(1), "be finite"
    else:
        # Comparisons with NaN are false, so a row with NaN is invalid.
        valid = (rows >= 0).all(1) & ((rows.sum(1) - 1).abs() <= 1e-4)
        rule = "be probabilities that sum to 1"
    for row in torch.nonzero(~valid).flatten().tolist()[:1]:
        require(False, f"labels row {row}", rule, rows[row].tolist())
