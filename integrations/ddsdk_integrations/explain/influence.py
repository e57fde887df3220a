"""From a prediction through the synthetic set to the training images behind it."""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor

import ddsdk as dd
from ddsdk.foundation import require
from ddsdk.objectives import targets
from ddsdk.training import pieces
from ddsdk_integrations.explain.weights import Explainer

_AT_ONCE = 1000
_CERTAIN = 1e-9
"""Distance of a leverage to 1 below which the fit is not determined without that image."""


@final
class Influence:
    """How much each training image moves a prediction that goes through the images of a set.

    With phi the features that the set spans, the training labels T_y give f(x) = phi(x)^T (F^T F + r I)^-1 F^T T_y, the
    rows of F being phi of the training images. For r = 0 that is the set with the labels that fit all training labels
    best (Label Solve); for r > 0 it is the approximation that the images of the set give to kernel ridge regression on
    *all* training images (Nystroem). Either way a prediction is a weighted sum of training labels, w(x)^T T_y. Leave
    image t out, solve again, and f falls by w_t(x) (y_t - f(t)) / (1 - w_t(t)): exactly, for all t at once.

    The images of the set stay as they are: that they, too, were learned from image t is not counted. `agreement` says
    how often these predictions are the classes that the set's own labels give.

    Args:
        explainer: Of the set.
        records: The training images, in the value space of the set; read once, 1000 at a time.
        ridge: Gives r, in units of the mean of the diagonal of k(S, S). That of a regression on all training images
            whose rankings are wanted; 0 for the set itself.

    Raises:
        ValueError: If there are fewer training images than images in the set, if their classes differ in number, or if
            `ridge` is negative.

    Cost: N M kernel values and a singular value decomposition of N x M; N M numbers of memory. A ranking of all
    training images is then one product with that matrix; weights of synthetic images do not grow with N.
    """

    def __init__(self, explainer: Explainer, records: dd.RealData, *, ridge: float = 0.0) -> None:
        require(len(records) >= len(explainer), "records", "be at least as many as the set", len(records))
        classes = explainer.labels.shape[1]
        require(records.num_classes == classes, "records", f"have {classes} classes", records.num_classes)
        require(0 <= ridge < math.inf, "ridge", "be finite and not negative", ridge)
        self._explainer = explainer
        read = [records.batch(torch.arange(len(records))[part]) for part in pieces(len(records), _AT_ONCE)]
        features = torch.cat([explainer.features(x) for x, _ in read])
        truth = targets(torch.cat([y for _, y in read]))
        left, sizes, right = torch.linalg.svd(features, full_matrices=False)
        kept = sizes > sizes[0] * torch.finfo(sizes.dtype).eps * len(features)
        left, sizes, right = left[:, kept], sizes[kept], right[kept]
        amount = ridge * explainer.unit
        self._left: Tensor = left
        self._back: Tensor = right.T * (sizes / (sizes.square() + amount))
        self._coefficients: Tensor = self._back @ (left.T @ truth)
        fitted = features @ self._coefficients
        leverage = (left.square() * (sizes.square() / (sizes.square() + amount))).sum(1)
        self._pull: Tensor = (truth - fitted) / (1 - leverage).clamp_min(_CERTAIN)[:, None]
        own = torch.cat([explainer.explain(x).classes for x, _ in read])
        self.agreement = float((own == fitted.argmax(1)).double().mean())
        """Share of training images for which these predictions are the classes that the set's own labels give."""

    def predict(self, x: Tensor) -> Tensor:
        """Return the predictions, (B, K) float64."""
        return self._explainer.features(x) @ self._coefficients

    def weights(self, x: Tensor) -> Tensor:
        """Return w(x), (B, N) float64: predictions are w(x)^T (y - 1/K)."""
        return (self._explainer.features(x) @ self._back) @ self._left.T

    def falls(self, x: Tensor) -> Tensor:
        """Return by how much the score of the predicted class falls without each training image, (B, N) float64.

        Positive where the image speaks for the prediction.
        """
        return self.weights(x) * self._pull.T[self.predict(x).argmax(1)]

    def behind(self, x: Tensor, count: int) -> Tensor:
        """Return the training images that speak most for the predicted class, (B, count) int64, the first first."""
        falls = self.falls(x)
        n = falls.shape[1]
        require(1 <= count <= n, "count", f"lie in 1..{n}", count)
        return falls.topk(count, dim=1).indices
