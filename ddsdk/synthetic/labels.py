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
"""What a user trains on: the rows as they are, their `nearest_distributions`, or the rows `hardened`."""


class Labels(nn.Module, ABC):
    """One row of K numbers for each slot."""

    @property
    @abstractmethod
    def space(self) -> LabelSpace:
        """How the rows are to be read; the artefact keeps it as `label_space`."""

    @abstractmethod
    def rows(self, slots: Tensor) -> Tensor:
        """Return the labels of `slots`, (B,) int64, as rows (B, K) of `space`."""

    @abstractmethod
    def project_(self) -> None:
        """Bring the stored tensors back to their admissible range, in place, after an optimizer step."""

    def assign_(self, slots: Tensor, rows: Tensor) -> bool:  # noqa: ARG002
        """Store `rows`, (B, K), at `slots` if the labels are learned; return whether they are."""
        return False


@final
class FixedLabels(Labels):
    """Labels that stay as they are, hard or soft.

    Args:
        probabilities: (M, K), rows non-negative with sum 1; in the space ``"scores"`` any finite numbers.
        space: How the rows are to be read.

    Raises:
        ValueError: If a row does not belong to the space; the message names it.
    """

    def __init__(self, probabilities: Tensor, *, space: LabelSpace = "probabilities") -> None:
        super().__init__()
        _check_rows(probabilities, space)
        self._space = space
        self.register_buffer("probabilities", probabilities.detach().clone())
        self.probabilities: Tensor

    @property
    def space(self) -> LabelSpace:
        """The space of the stored rows."""
        return self._space

    def rows(self, slots: Tensor) -> Tensor:
        """Return the stored rows."""
        return self.probabilities[slots]

    def project_(self) -> None:
        """Do nothing: fixed labels never leave their range."""


@final
class LearnedLabels(Labels):
    """Labels that are trained with the images: the softmax of free logits.

    Args:
        logits: (M, K) at the start.
    """

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits.detach().clone())

    @property
    def space(self) -> LabelSpace:
        """Rows of a softmax are probabilities."""
        return "probabilities"

    def rows(self, slots: Tensor) -> Tensor:
        """Return softmax rows with graph to the logits."""
        return self.logits[slots].softmax(1)

    def project_(self) -> None:
        """Do nothing: every logit is admissible."""

    @torch.no_grad()
    def assign_(self, slots: Tensor, rows: Tensor) -> bool:
        """Store the logarithms of `rows`, whose softmax they are; zeros become the smallest normal number."""
        self.logits[slots] = rows.clamp_min(torch.finfo(rows.dtype).tiny).log()
        return True


@final
class FreeLabels(Labels):
    """Rows of any real numbers, trained as they are.

    Regression fits them with squared error, where centred rows sum to 0. SLDD puts them into cross-entropy,
    -sum(y log_softmax(f(x))), which is defined for any real y.

    Args:
        values: (M, K) at the start.
        low: No entry falls below it, or None for no bound.

    Raises:
        ValueError: If a row is not finite; the message names it.
    """

    def __init__(self, values: Tensor, low: float | None = None) -> None:
        super().__init__()
        _check_rows(values, "scores")
        self.values = nn.Parameter(values.detach().clone())
        self._low = low

    @property
    def space(self) -> LabelSpace:
        """Free rows are scores."""
        return "scores"

    def rows(self, slots: Tensor) -> Tensor:
        """Return the stored rows with graph to them."""
        return self.values[slots]

    @torch.no_grad()
    def project_(self) -> None:
        """Raise entries below `low` to it."""
        if self._low is not None:
            self.values.clamp_(min=self._low)

    @torch.no_grad()
    def assign_(self, slots: Tensor, rows: Tensor) -> bool:
        """Store `rows` as they are."""
        self.values[slots] = rows
        return True


@final
class SimplexLabels(Labels):
    """Distributions that are trained as they are and projected after each step.

    Args:
        values: (M, K) at the start, rows non-negative with sum 1.

    Raises:
        ValueError: If a row is not a distribution; the message names it.
    """

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        _check_rows(values, "probabilities")
        self.values = nn.Parameter(values.detach().clone())

    @property
    def space(self) -> LabelSpace:
        """Projected rows are probabilities."""
        return "probabilities"

    def rows(self, slots: Tensor) -> Tensor:
        """Return the stored rows with graph to them."""
        return self.values[slots]

    @torch.no_grad()
    def project_(self) -> None:
        """Clamp entries to [0, 1] and divide each row by its sum; a row without any mass becomes uniform."""
        rows = self.values.clamp_(0, 1)
        empty = rows.sum(1) <= 0
        rows[empty] = 1
        rows.div_(rows.sum(1, keepdim=True))

    @torch.no_grad()
    def assign_(self, slots: Tensor, rows: Tensor) -> bool:
        """Store `rows` as they are."""
        self.values[slots] = rows
        return True


def hard_labels(classes: Tensor, num_classes: int) -> FixedLabels:
    """Return one-hot labels for `classes`, (M,) int64."""
    return FixedLabels(one_hot(classes, num_classes).float())


def centred_labels(classes: Tensor, num_classes: int, scale: float = 1.0) -> Tensor:
    """Return scale (one-hot - 1/K), (M, K): rows with mean 0, as regression on labels wants them.

    Args:
        classes: (M,) int64.
        num_classes: K.
        scale: 1 in KIP; sqrt(10 / K) in FRePo's code.
    """
    return scale * (one_hot(classes, num_classes).float() - 1 / num_classes)


def nearest_distributions(rows: Tensor) -> Tensor:
    """Return the distribution that is nearest to each row in the Euclidean sense: max(y - t, 0), t giving sum 1.

    It needs no temperature, leaves distributions as they are, and ignores a constant that is added to a row: from
    centred one-hot rows it gives the one-hot rows back, where their softmax would be next to uniform.

    Args:
        rows: (M, K), any finite numbers.

    Returns:
        (M, K), non-negative with sum 1.

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
    """Return label rows (M, K) as a user wants them.

    Raises:
        ValueError: If there is no such reading.
    """
    require(reading in get_args(LabelReading), "labels", f"be one of {list(get_args(LabelReading))}", reading)
    if reading == "stored":
        return rows
    return nearest_distributions(rows) if reading == "probabilities" else hardened(rows)


def _check_rows(rows: Tensor, space: LabelSpace) -> None:
    if space == "scores":
        good, rule = torch.isfinite(rows).all(1), "be finite"
    else:
        # Asked this way round, NaN is bad too.
        good = (rows >= 0).all(1) & ((rows.sum(1) - 1).abs() <= 1e-4)
        rule = "be probabilities that sum to 1"
    for row in torch.nonzero(~good).flatten().tolist()[:1]:
        require(False, f"labels row {row}", rule, rows[row].tolist())
