"""Conjugate gradients: linear systems whose matrix is known by what it does to a vector."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ddsdk.foundation import require_count


@torch.no_grad()
def conjugate_gradients(
    product: Callable[[Tensor], Tensor], right: Tensor, steps: int, *, tolerance: float = 1e-10
) -> Tensor:
    """Return x near the solution of A x = b, from x = 0; each step is exact in one more direction.

    Args:
        product: x to A x, for a symmetric and positive definite A.
        right: b, (P,).
        steps: Products at most.
        tolerance: Where ||b - A x|| falls below so large a part of ||b||, it is done.

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
