"""Ridge regression in float64, differentiable: the one solver of every method that fits no network."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple, final, get_args

import torch
from torch import Tensor

from ddsdk.foundation import require

RidgeRule = Literal["trace", "absolute", "count"]

_JITTERS = (1e-12, 1e-10, 1e-8, 1e-6, 1e-4)
"""What is tried where Cholesky fails, in units of the mean of the diagonal."""


@final
@dataclass(frozen=True, kw_only=True)
class Ridge:
    """How much is added to the diagonal of an n x n Gram matrix G, by a named rule.

    Papers give one number and mean different things by it; the wrong rule goes unnoticed.

    Attributes:
        rule: "trace" adds strength tr(G) / n, which does not depend on the scale of the kernel (KIP, FRePo, RFAD);
            "absolute" adds strength; "count" adds strength n (RCIG).
        strength: Not negative.
    """

    rule: RidgeRule = "trace"
    strength: float = 1e-6

    def __post_init__(self) -> None:
        rules = get_args(RidgeRule)
        require(self.rule in rules, "rule", f"be one of {', '.join(rules)}", self.rule)
        require(0 <= self.strength < math.inf, "strength", "be finite and not negative", self.strength)

    def amount(self, gram: Tensor) -> Tensor:
        """Return what is added, a scalar; under "trace" with graph to `gram`, (n, n)."""
        if self.rule == "trace":
            return self.strength * gram.diagonal().mean()
        return gram.new_tensor(self.strength * (len(gram) if self.rule == "count" else 1))


class Solution(NamedTuple):
    """What a ridge problem comes to.

    Attributes:
        values: (n, K) float64: coefficients of the kernel expansion, or labels.
        jitter: What was added to the diagonal beyond the ridge, with a warning; 0 where Cholesky needed none.
    """

    values: Tensor
    jitter: float


def solve(gram: Tensor, targets: Tensor, ridge: Ridge) -> Solution:
    """Return alpha = (G + r I)^-1 Y, with graph to both.

    The predictions for points with kernel values C, (m, n), are C alpha.

    Args:
        gram: Symmetric and positive semi-definite, (n, n); it is taken to float64.
        targets: (n, K).
        ridge: Gives r.

    Raises:
        ValueError: If a shape does not fit, or Cholesky fails beyond a jitter of 1e-4 of the mean of the diagonal,
            as it does for what is no Gram matrix.

    A Gram matrix that is not finite gives a solution that is not finite, as arithmetic does.

    Cost: n^3 / 3 multiplications.
    """
    matrix = _ridged(gram, ridge)
    require(len(targets) == len(gram), "targets", f"have {len(gram)} rows", tuple(targets.shape))
    targets = targets.double()
    if not bool(torch.isfinite(matrix).all()):
        return Solution(targets * (matrix.sum() * math.nan), 0.0)
    factor, jitter = _cholesky(matrix)
    return Solution(torch.cholesky_solve(targets, factor), jitter)


def solve_labels(gram: Tensor, pieces: Iterable[tuple[Tensor, Tensor]], ridge: Ridge) -> Solution:
    """Return the labels that fit given targets best: argmin_Y || C (G + r I)^-1 Y - T ||^2, of least norm.

    Args:
        gram: Of the points whose labels are sought, (n, n).
        pieces: Pairs of C, (m, n), the kernel between other points and these, and T, (m, K), in as many pieces as
            the memory likes: each is folded into a triangle of n rows.
        ridge: Gives r.

    Raises:
        ValueError: As `solve`; or if there are no pieces.

    References:
        Nguyen, Chen and Lee, "Dataset Meta-Learning from Kernel Ridge-Regression", ICLR 2021, arXiv:2011.00050.
    """
    n = len(gram)
    factor, jitter = _cholesky(_ridged(gram, ridge))
    rows = None
    for cross, targets in pieces:
        weights = torch.cholesky_solve(cross.double().T, factor).T
        new = torch.cat([weights, targets.double()], 1)
        # An orthogonal factor changes no norm, so the triangle asks the same question as all rows so far.
        rows = torch.linalg.qr(new if rows is None else torch.cat([rows, new]), mode="r").R
    if rows is None:
        raise ValueError("pieces must not be empty, got none")
    return Solution(torch.linalg.pinv(rows[:, :n]) @ rows[:, n:], jitter)


def _ridged(gram: Tensor, ridge: Ridge) -> Tensor:
    square = gram.ndim == 2 and gram.shape[0] == gram.shape[1] >= 1
    require(square, "gram", "be a square matrix", tuple(gram.shape))
    gram = gram.double()
    gram = (gram + gram.T) / 2
    return gram + ridge.amount(gram) * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)


def _cholesky(matrix: Tensor) -> tuple[Tensor, float]:
    unit = float(matrix.detach().diagonal().abs().mean()) or 1.0
    identity = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    for share in (0.0, *_JITTERS):
        jittered = matrix if share == 0 else matrix + share * unit * identity
        # Asked on a detached copy: the graph of a failed attempt is of no use.
        if int(torch.linalg.cholesky_ex(jittered.detach()).info) == 0:
            if share:
                # Told in units of the diagonal, so that a long run warns once and not of every amount.
                note = f"{share:g} of its mean was added to its diagonal; a larger ridge avoids that"
                warnings.warn(f"the Gram matrix is singular to working precision: {note}", stacklevel=3)
            return torch.linalg.cholesky(jittered), share * unit
    least = float(torch.linalg.eigvalsh(matrix.detach())[0])
    rule = f"be positive semi-definite within {_JITTERS[-1]} of its mean diagonal {unit:.4g}"
    raise ValueError(f"gram must {rule}, got a least eigenvalue of {least:.4g}; raise the ridge")
