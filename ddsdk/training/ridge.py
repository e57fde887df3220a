"""Linear systems: differentiable ridge regression in float64, and conjugate gradients."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple, final, get_args

import torch
from torch import Tensor

from ddsdk.foundation import Checked, NonNegativeFloat, require, require_count

RidgeRule = Literal["trace", "absolute", "count"]

_JITTERS = (1e-12, 1e-10, 1e-8, 1e-6, 1e-4)
"""Additions to the diagonal where Cholesky fails, in units of its mean."""


@final
@dataclass(frozen=True, kw_only=True)
class Ridge(Checked):
    """The amount that is added to the diagonal of an n x n Gram matrix G, by a named rule.

    Papers give one number and mean different things by it; the wrong rule goes unnoticed.

    Attributes:
        rule: "trace" adds strength tr(G) / n, which does not depend on the scale of the kernel (KIP, FRePo, RFAD);
            "absolute" adds strength; "count" adds strength n (RCIG).
        strength: Factor of the amount.
    """

    rule: RidgeRule = "trace"
    strength: NonNegativeFloat = 1e-6

    def __post_init__(self) -> None:
        super().__post_init__()
        rules = get_args(RidgeRule)
        require(self.rule in rules, "rule", f"be one of {', '.join(rules)}", self.rule)

    def amount(self, gram: Tensor) -> Tensor:
        """Return the amount, a scalar; under "trace" with graph to `gram`, (n, n)."""
        if self.rule == "trace":
            return self.strength * gram.diagonal().mean()
        return gram.new_tensor(self.strength * (len(gram) if self.rule == "count" else 1))


class Solution(NamedTuple):
    """The solution of a ridge problem.

    Attributes:
        values: Coefficients of the kernel expansion, or labels, (n, K) float64.
        jitter: Amount on the diagonal beyond the ridge, with a warning; 0 where Cholesky needed none.
    """

    values: Tensor
    jitter: float


def solve(gram: Tensor, targets: Tensor, ridge: Ridge) -> Solution:
    """Return alpha = (G + r I)^-1 Y, with graph to both.

    The predictions for points with kernel values C, (m, n), are C alpha.

    Args:
        gram: Gram matrix, symmetric and positive semi-definite, (n, n); it is taken to float64.
        targets: Targets, (n, K).
        ridge: Ridge r.

    Raises:
        ValueError: If a shape does not fit, or Cholesky fails beyond a jitter of 1e-4 of the mean of the diagonal,
            as it does for what is no Gram matrix.

    A Gram matrix that is not finite gives a solution that is not finite, as arithmetic does.
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
        gram: Gram matrix of the points whose labels are sought, (n, n).
        pieces: Pairs of C, (m, n), the kernel between other points and these, and T, (m, K), in one piece or more:
            each is folded into a triangle of n rows.
        ridge: Ridge r.

    References:
        Nguyen, Chen and Lee, "Dataset Meta-Learning from Kernel Ridge-Regression", ICLR 2021, arXiv:2011.00050.
    """
    n = len(gram)
    factor, jitter = _cholesky(_ridged(gram, ridge))
    rows = None
    for cross, targets in pieces:
        weights = torch.cholesky_solve(cross.double().T, factor).T
        new = torch.cat([weights, targets.double()], 1)
        # An orthogonal factor changes no norm, so the triangle has the same solution as all rows so far.
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
        # On a detached copy: the graph of a failed attempt is of no use.
        if int(torch.linalg.cholesky_ex(jittered.detach()).info) == 0:
            if share:
                # In units of the diagonal, so that a long run warns once and not of every amount.
                note = f"{share:g} of its mean was added to its diagonal; a larger ridge avoids that"
                warnings.warn(f"the Gram matrix is singular to working precision: {note}", stacklevel=3)
            return torch.linalg.cholesky(jittered), share * unit
    least = float(torch.linalg.eigvalsh(matrix.detach())[0])
    rule = f"be positive semi-definite within {_JITTERS[-1]} of its mean diagonal {unit:.4g}"
    raise ValueError(f"gram must {rule}, got a least eigenvalue of {least:.4g}; raise the ridge")


def linear_weights(parts: Iterable[tuple[Tensor, Tensor]], ridge: Ridge) -> Tensor:
    """Return the weights W, (D, K) float64, of kernel ridge regression with the linear kernel <x, z> / D.

    W = (X^T X + r D I)^-1 X^T Y: predictions for new images are their pixels times W. The memory is that of two D x D
    matrices.

    Args:
        parts: Pairs of images (B, C, H, W) and rows (B, K), in one piece or more.
        ridge: Ridge r of the n x n Gram matrix X X^T / D of all n images.
    """
    count, square, moment = 0, None, None
    for images, rows in parts:
        x, y = images.flatten(1).double(), rows.double()
        count += len(x)
        square = x.T @ x if square is None else square + x.T @ x
        moment = x.T @ y if moment is None else moment + x.T @ y
    if square is None or moment is None:
        raise ValueError("parts must not be empty, got none")
    size = len(square)
    # The trace rule reads the mean of the diagonal of the Gram matrix: the mean of |x|^2 / D over images.
    amount = {"trace": float(square.trace()) / (size * count), "absolute": 1.0, "count": float(count)}
    strength = ridge.strength * amount[ridge.rule] * size
    return solve(square, moment, Ridge(rule="absolute", strength=strength)).values


def images_of_weights(weights: Tensor, labels: Tensor, near: Tensor) -> Tensor:
    """Return images X, (M, D), whose least-squares regression X^+ Y has given weights W exactly.

    With P = Y Y^+, X is the pseudo-inverse of D = W Y^+ + Z^+ (I - P): D Y = W. One image for each class leaves no
    choice, X = (W Y^-1)^+. Of more, the choice is that whose pseudo-inverse is nearest that of given images Z.

    Args:
        weights: Weights W, (D, K).
        labels: Labels Y, (M, K), of rank K.
        near: Images Z, (M, ...) with D numbers each.

    Raises:
        ValueError: If there are more images than pixels, or X cannot have rank M, as where two of `near` are equal.

    References:
        Chen et al., "Provable and Efficient Dataset Distillation for Kernel Ridge Regression", NeurIPS 2024.
    """
    require(len(labels) <= len(weights), "ipc", f"make at most {len(weights)} images in all", len(labels))
    weights, labels, near = weights.double(), labels.double(), near.flatten(1).double()
    inverse = torch.linalg.pinv(labels)
    rest = torch.eye(len(labels), dtype=labels.dtype, device=labels.device) - labels @ inverse
    wanted = weights @ inverse + torch.linalg.pinv(near) @ rest
    images: Tensor = torch.linalg.pinv(wanted)
    short = (images @ wanted - torch.eye(len(labels)).to(images)).abs().max()
    require(float(short) < 1e-6, "near", "hold images that do not depend on each other linearly", near.shape)
    return images


@torch.no_grad()
def conjugate_gradients(
    product: Callable[[Tensor], Tensor], right: Tensor, steps: int, *, tolerance: float = 1e-10
) -> Tensor:
    """Return x near the solution of A x = b, from x = 0; each step is exact in one more direction.

    Args:
        product: Function from x to A x, for a symmetric and positive definite A.
        right: Right side b, (P,).
        steps: Largest number of products.
        tolerance: Ratio of ||b - A x|| to ||b|| at which the solution is near enough.

    References:
        Hestenes and Stiefel, "Methods of Conjugate Gradients for Solving Linear Systems", 1952.
    """
    require_count("steps", steps)
    x, residual, direction = torch.zeros_like(right), right, right
    square = residual.dot(residual)
    enough = tolerance**2 * square
    for _ in range(steps):
        if not bool(square > enough):
            break
        image = product(direction)
        length = square / direction.dot(image)
        x, residual = x + length * direction, residual - length * image
        before, square = square, residual.dot(residual)
        direction = residual + (square / before) * direction
    return x
