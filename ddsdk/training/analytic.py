"""Linear regression in closed form, and the images whose regression it is."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from ddsdk.foundation import require
from ddsdk.training.ridge import Ridge, solve


def linear_weights(parts: Iterable[tuple[Tensor, Tensor]], ridge: Ridge) -> Tensor:
    """Return the weights W, (D, K) float64, of kernel ridge regression with the linear kernel <x, z> / D.

    W = (X^T X + r D I)^-1 X^T Y: predictions for new images are their pixels times W.

    Args:
        parts: Pairs of images (B, C, H, W) and rows (B, K), in pieces.
        ridge: Gives r, for the n x n Gram matrix X X^T / D of all n images.

    Raises:
        ValueError: If there are no images.

    Cost: n D^2 multiplications and D^3 / 3 for the solution; memory for two D x D matrices, whatever n.
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
        weights: W, (D, K).
        labels: Y, (M, K), of rank K.
        near: Z, (M, ...) with D numbers each.

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
