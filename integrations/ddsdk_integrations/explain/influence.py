"""Influence of training images on predictions through a distilled set, and pictures of explanations."""

from __future__ import annotations

import math
from pathlib import Path
from typing import final

import torch
from torch import Tensor

import ddsdk as dd
from ddsdk.experiments import empty_figure, write_figure
from ddsdk.foundation import require
from ddsdk.objectives import targets
from ddsdk.training import pieces
from ddsdk_integrations.explain.weights import Explainer

_AT_ONCE = 1000
_CERTAIN = 1e-9
"""Smallest distance of a leverage to 1: with a leverage of 1, the fit without that image is not determined."""
_FOR, _AGAINST, _TRAINING = 4, 2, 4
"""Images in a row of the picture: synthetic ones for and against the class, and training images."""


@final
class Influence:
    """The influence of each training image on predictions through a distilled set, by exact leave-one-out.

    Predictions are f(x) = phi(x)^T (F^T F + r I)^-1 F^T T_y, with features phi of the set's kernel (see
    `Explainer.features`), rows phi of the training images in F, and training labels T_y. For r = 0 this is the set with
    the labels that fit all training labels best (Label Solve). For r > 0 it is the Nystroem approximation, by the set's
    images, of kernel ridge regression on all training images. In both cases a prediction is a weighted sum of training
    labels, w(x)^T T_y. Without image t, f drops by w_t(x) (y_t - f(t)) / (1 - w_t(t)), exactly and for all t at once.

    The synthetic images stay fixed: their own dependence on image t through the distillation is not included.

    Args:
        explainer: Explainer of the distilled set with M images.
        records: Training images in the value space of the set, N >= M; read once, 1000 at a time.
        ridge: Ridge r in units of the mean of the diagonal of k(S, S), >= 0. Use that of the regression on all training
            images whose influences are approximated, or 0 for the set itself.

    Cost: N M kernel values and a singular value decomposition of N x M; memory for N M numbers. The influence of all
    training images is then one product with that matrix.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.explain import Explainer, Influence
        >>> real = ddsdk.load("digits")
        >>> explainer = Explainer(ddsdk.distill(ddsdk.KIP(ipc=1, steps=2, real_batch=50), real))
        >>> influence = Influence(explainer, real)
        >>> influence.behind(real.batch(real.index_of_class(3)[:2]).x, count=4).shape
        torch.Size([2, 4])
    """

    def __init__(self, explainer: Explainer, records: dd.RealData, *, ridge: float = 0.0) -> None:
        require(len(records) >= len(explainer), "records", "be at least as many as the set", len(records))
        classes = explainer.labels.shape[1]
        require(records.num_classes == classes, "records", f"have {classes} classes", records.num_classes)
        require(0 <= ridge < math.inf, "ridge", "be finite and not negative", ridge)
        self._explainer = explainer
        batches = [records.batch(torch.arange(len(records))[part]) for part in pieces(len(records), _AT_ONCE)]
        features = torch.cat([explainer.features(x) for x, _ in batches])
        truth = targets(torch.cat([y for _, y in batches]))
        left, singular, right = torch.linalg.svd(features, full_matrices=False)
        # Directions below the rounding error have no reliable inverse.
        significant = singular > singular[0] * torch.finfo(singular.dtype).eps * len(features)
        left, singular, right = left[:, significant], singular[significant], right[significant]
        amount = ridge * explainer.unit
        self._left: Tensor = left
        self._pseudo_inverse: Tensor = right.T * (singular / (singular.square() + amount))
        self._coefficients: Tensor = self._pseudo_inverse @ (left.T @ truth)
        fitted = features @ self._coefficients
        leverage = (left.square() * (singular.square() / (singular.square() + amount))).sum(1)
        self._residuals: Tensor = (truth - fitted) / (1 - leverage).clamp_min(_CERTAIN)[:, None]
        set_classes = torch.cat([explainer.explain(x).classes for x, _ in batches])
        self.agreement = float((set_classes == fitted.argmax(1)).double().mean())
        """Share of training images with the same predicted class under the set's own labels, in 0..1."""

    def predict(self, x: Tensor) -> Tensor:
        """Return the predictions, (B, K) float64."""
        return self._explainer.features(x) @ self._coefficients

    def weights(self, x: Tensor) -> Tensor:
        """Return the weights w(x) of the training labels, (B, N) float64: predictions are w(x)^T (y - 1/K)."""
        return (self._explainer.features(x) @ self._pseudo_inverse) @ self._left.T

    def falls(self, x: Tensor) -> Tensor:
        """Return the drop of the predicted class's score without each training image, (B, N) float64.

        A positive drop means that the image supports the prediction.
        """
        return self.weights(x) * self._residuals.T[self.predict(x).argmax(1)]

    def behind(self, x: Tensor, count: int) -> Tensor:
        """Return the training images with the largest support for the predicted class, (B, count) int64, descending."""
        require(1 <= count <= len(self._left), "count", f"lie in 1..{len(self._left)}", count)
        return self.falls(x).topk(count, dim=1).indices


def draw_explanations(
    explainer: Explainer, records: dd.RealData, queries: dd.RealData, index: Tensor, path: str | Path
) -> None:
    """Draw explanations as a picture with a row for each query image; needs matplotlib.

    A row has the query, four synthetic images for its predicted class, two against it, and four training images.
    Numbers are contributions of synthetic images to the score of the class, and 1000 times the drop of that score
    without a training image.

    Args:
        explainer: Explainer of the distilled set.
        records: Training images of the set.
        queries: Images to explain, in the value space of the records.
        index: Positions in `queries` of the images to draw, (B,) int64.
        path: Path of the picture, with an ending such as .png or .svg.

    Examples:
        >>> import ddsdk, torch
        >>> from ddsdk_integrations.explain import Explainer, draw_explanations
        >>> train, test = ddsdk.load_pair("digits")
        >>> explainer = Explainer(ddsdk.distill(ddsdk.KIP(ipc=1, steps=2, real_batch=50), train))
        >>> draw_explanations(explainer, train, test, torch.tensor([0]), "explanation.png")
    """
    x = queries.batch(index).x
    explanation, influence = explainer.explain(x), Influence(explainer, records)
    drops = influence.falls(x)
    columns = 1 + _FOR + _AGAINST + _TRAINING
    figure = empty_figure(1.05 * columns, 1.3 * len(index))
    axes = figure.subplots(len(index), columns, squeeze=False)
    training_images = records.batch(torch.arange(len(records))).x
    for row, cells in enumerate(axes):
        contributions = explanation.own[row]
        order = contributions.argsort(descending=True)
        synthetic = torch.cat([order[:_FOR], order[len(order) - _AGAINST :].flip(0)])
        supporting = drops[row].topk(_TRAINING).indices
        name = records.class_names[int(explanation.classes[row])]
        pictures = [(x[row], f"predicted {name}")]
        pictures += [(explainer.images[i], f"{float(contributions[i]):+.2f}") for i in synthetic]
        pictures += [(training_images[i], f"train {1000 * float(drops[row, i]):+.1f}") for i in supporting]
        for cell, (image, title) in zip(cells, pictures, strict=True):
            pixels = records.preprocess.inverse(image[None])[0].clamp(0, 1).permute(1, 2, 0).cpu()
            cell.imshow(pixels.squeeze(-1).numpy(), cmap="gray", vmin=0, vmax=1)
            cell.set_title(title, fontsize=7)
            cell.axis("off")
    write_figure(figure, path)
