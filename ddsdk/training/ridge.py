"""Linear systems: differentiable ridge regression in float64, and conjugate gradients."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple, final, get_args

import torch
from torch import Tensor

from ddsdk.foundation import CheckedDataclass, NonNegativeFloat, require, require_count

RidgeRule = Literal["trace", "absolute", "count"]

_JITTERS = (1e-12, 1e-10, 1e-8, 1e-6, 1e-4)
"""Additions to the diagonal that are tried in turn if Cholesky fails, relative to the mean of the diagonal."""


@final
@dataclass(frozen=True, kw_only=True)
class Ridge(CheckedDataclass):
    """The ridge r that is added to the diagonal of an n x n Gram matrix G, by one of three rules.

    Papers state one number and mean different rules by it; a wrong rule raises no error.

    Attributes:
        rule: Rule for r: "trace" is strength tr(G) / n, independent of the scale of the kernel (KIP, FRePo, RFAD);
            "absolute" is strength; "count" is strength n (RCIG).
        strength: Factor in the rule, at least 0.

    Examples:
        >>> import torch
        >>> from ddsdk.training import Ridge
        >>> Ridge(rule="trace", strength=0.5).amount(2 * torch.eye(3)).item()
        1.0
    """

    rule: RidgeRule = "trace"
    strength: NonNegativeFloat = 1e-6

    def __post_init__(self) -> None:
        super().__post_init__()
        rules = get_args(RidgeRule)
        require(self.rule in rules, "rule", f"be one of {', '.join(rules)}", self.rule)

    def amount(self, gram: Tensor) -> Tensor:
        """Return the ridge r for a Gram matrix, a scalar; the "trace" rule has a graph to `gram`, (n, n)."""
        if self.rule == "trace":
            return self.strength * gram.diagonal().mean()
        return gram.new_tensor(self.strength * (len(gram) if self.rule == "count" else 1))


class Solution(NamedTuple):
    """The solution of a ridge problem.

    Attributes:
        values: Coefficients of the kernel expansion, or solved labels, (n, K) float64.
        jitter: Amount on the diagonal beyond the ridge, which is added with a warning; 0 if Cholesky needed none.
    """

    values: Tensor
    jitter: float


def solve(gram: Tensor, targets: Tensor, ridge: Ridge) -> Solution:
    """Return the coefficients alpha = (G + r I)^-1 Y of kernel ridge regression, with graph to both matrices.

    The predictions for points with kernel values C, (m, n), are C alpha. A Gram matrix that is not finite gives a
    solution that is not finite. ValueError is raised if a shape does not fit, or if Cholesky fails beyond a jitter of
    1e-4 of the mean of the diagonal, as for a matrix that is not positive semi-definite.

    Args:
        gram: Gram matrix G, symmetric and positive semi-definite, (n, n); it is converted to float64.
        targets: Targets Y, (n, K), converted to float64.
        ridge: Ridge r on the diagonal.

    Examples:
        >>> import torch
        >>> from ddsdk.training import Ridge, solve
        >>> solve(torch.eye(3), torch.ones(3, 2), Ridge(rule="absolute", strength=1.0)).values[0]
        tensor([0.5000, 0.5000], dtype=torch.float64)
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
        gram: Gram matrix G of the points whose labels are solved for, (n, n).
        pieces: Pairs of kernel values C, (m, n), between other points and these, and targets T, (m, K), in one or more
            pieces. Memory is that of one piece and n rows.
        ridge: Ridge r on the diagonal of G.

    Raises:
        ValueError: If there is no piece.

    References:
        Nguyen, Chen and Lee, "Dataset Meta-Learning from Kernel Ridge-Regression", ICLR 2021, arXiv:2011.00050.
    """
    n = len(gram)
    factor, jitter = _cholesky(_ridged(gram, ridge))
    triangle = None
    for cross, targets in pieces:
        weights = torch.cholesky_solve(cross.double().T, factor).T
        rows = torch.cat([weights, targets.double()], 1)
        # The orthogonal factor of QR changes no norm: the triangle has the least-squares solution of all rows so far.
        triangle = torch.linalg.qr(rows if triangle is None else torch.cat([triangle, rows]), mode="r").R
    if triangle is None:
        raise ValueError("pieces must not be empty, got none")
    return Solution(torch.linalg.pinv(triangle[:, :n]) @ triangle[:, n:], jitter)


def _ridged(gram: Tensor, ridge: Ridge) -> Tensor:
    square = gram.ndim == 2 and gram.shape[0] == gram.shape[1] >= 1
    require(square, "gram", "be a square matrix", tuple(gram.shape))
    gram = gram.double()
    gram = (gram + gram.T) / 2
    return gram + ridge.amount(gram) * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)


def _cholesky(matrix: Tensor) -> tuple[Tensor, float]:
    mean_diagonal = float(matrix.detach().diagonal().abs().mean()) or 1.0
    identity = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    for relative_jitter in (0.0, *_JITTERS):
        jittered = matrix if relative_jitter == 0 else matrix + relative_jitter * mean_diagonal * identity
        # The attempt is made on a detached copy, because a failed one needs no graph.
        if int(torch.linalg.cholesky_ex(jittered.detach()).info) == 0:
            if relative_jitter:
                # The text has the relative amount: Python then shows the warning once in a run, not for every matrix.
                advice = f"{relative_jitter:g} of its mean was added to its diagonal; a larger ridge avoids that"
                warnings.warn(f"the Gram matrix is singular to working precision: {advice}", stacklevel=3)
            return torch.linalg.cholesky(jittered), relative_jitter * mean_diagonal
    least = float(torch.linalg.eigvalsh(matrix.detach())[0])
    rule = f"be positive semi-definite within {_JITTERS[-1]} of its mean diagonal {mean_diagonal:.4g}"
    raise ValueError(f"gram must {rule}, got a least eigenvalue of {least:.4g}; raise the ridge")


def linear_weights(parts: Iterable[tuple[Tensor, Tensor]], ridge: Ridge) -> Tensor:
    """Return the weights W, (D, K) float64, of kernel ridge regression with the linear kernel <x, z> / D.

    W = (X^T X + r D I)^-1 X^T Y; the predictions for new images are their pixels times W. Memory is that of two D x D
    matrices.

    Args:
        parts: Pairs of images (B, C, H, W) and label rows (B, K), in one or more batches.
        ridge: Ridge r of the n x n Gram matrix X X^T / D of all n images.

    Raises:
        ValueError: If there is no batch.

    Examples:
        >>> import ddsdk, torch
        >>> from ddsdk.training import Ridge, linear_weights
        >>> batch = ddsdk.load("digits").batch(torch.arange(100))
        >>> linear_weights([batch], Ridge()).shape
        torch.Size([64, 10])
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
    # The trace rule needs the mean diagonal of the n x n Gram matrix X X^T / D: tr(X^T X) / (D n).
    amount = {"trace": float(square.trace()) / (size * count), "absolute": 1.0, "count": float(count)}
    strength = ridge.strength * amount[ridge.rule] * size
    return solve(square, moment, Ridge(rule="absolute", strength=strength)).values


def images_of_weights(weights: Tensor, labels: Tensor, near: Tensor) -> Tensor:
    """Return images X, (M, D), whose least-squares regression X^+ Y has exactly the given weights W.

    With P = Y Y^+, X is the pseudo-inverse of D = W Y^+ + Z^+ (I - P), so that D Y = W. With one image per class the
    solution is unique, X = (W Y^-1)^+. With more, it is the one whose pseudo-inverse is nearest to that of images Z.
    ValueError is raised if there are more images than pixels, or if X cannot have rank M, for instance because two of
    the images Z are equal.

    Args:
        weights: Weights W of a linear regression, (D, K).
        labels: Label rows Y of the images, (M, K), of rank K.
        near: Reference images Z, (M, ...) with D pixels each.

    References:
        Chen et al., "Provable and Efficient Dataset Distillation for Kernel Ridge Regression", NeurIPS 2024.

    Examples:
        >>> import torch
        >>> from ddsdk.training import images_of_weights
        >>> rng = torch.Generator().manual_seed(0)
        >>> weights, near = torch.randn(64, 10, generator=rng), torch.randn(10, 1, 8, 8, generator=rng)
        >>> images_of_weights(weights, torch.eye(10), near).shape
        torch.Size([10, 64])
    """
    require(len(labels) <= len(weights), "ipc", f"make at most {len(weights)} images in all", len(labels))
    weights, labels, near = weights.double(), labels.double(), near.flatten(1).double()
    inverse = torch.linalg.pinv(labels)
    complement = torch.eye(len(labels), dtype=labels.dtype, device=labels.device) - labels @ inverse
    pseudo_inverse = weights @ inverse + torch.linalg.pinv(near) @ complement
    images: Tensor = torch.linalg.pinv(pseudo_inverse)
    error = (images @ pseudo_inverse - torch.eye(len(labels)).to(images)).abs().max()
    require(float(error) < 1e-6, "near", "hold linearly independent images", near.shape)
    return images


@torch.no_grad()
def conjugate_gradients(
    product: Callable[[Tensor], Tensor], right: Tensor, steps: int, *, tolerance: float = 1e-10
) -> Tensor:
    """Return an approximate solution x of A x = b by conjugate gradients from x = 0.

    Args:
        product: Function from x to A x, for a symmetric and positive definite A.
        right: Right-hand side b, (P,).
        steps: Largest number of products, at least 1.
        tolerance: Ratio of ||b - A x|| to ||b|| at which the iteration stops.

    References:
        Hestenes and Stiefel, "Methods of Conjugate Gradients for Solving Linear Systems", 1952.

    Examples:
        >>> import torch
        >>> from ddsdk.training import conjugate_gradients
        >>> conjugate_gradients(lambda x: 2 * x, torch.ones(2), steps=5)
        tensor([0.5000, 0.5000])
    """
    require_count("steps", steps)
    x, residual, direction = torch.zeros_like(right), right, right
    residual_square = residual.dot(residual)
    threshold = tolerance**2 * residual_square
    for _ in range(steps):
        if not bool(residual_square > threshold):
            break
        image = product(direction)
        length = residual_square / direction.dot(image)
        x, residual = x + length * direction, residual - length * image
        previous_square, residual_square = residual_square, residual.dot(residual)
        direction = residual + (residual_square / previous_square) * direction
    return x
