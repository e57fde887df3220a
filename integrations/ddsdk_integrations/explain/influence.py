"""From a prediction through the synthetic set to the training images behind it, and a picture of both."""

from __future__ import annotations

import math
from pathlib import Path
from typing import final

import torch
from torch import Tensor

import ddsdk as dd
from ddsdk.experiments import empty_figure
from ddsdk.foundation import require
from ddsdk.objectives import targets
from ddsdk.training import pieces
from ddsdk_integrations.explain.weights import Explainer

_AT_ONCE = 1000
_CERTAIN = 1e-9
"""Distance of a leverage to 1 below which the fit is not determined without that image."""
_FOR, _AGAINST, _BEHIND = 4, 2, 4
"""Numbers of images in a row of the picture."""


@final
class Influence:
    """Influence of each training image on predictions that go through the images of a set.

    With phi the features that the set spans, the training labels T_y give f(x) = phi(x)^T (F^T F + r I)^-1 F^T T_y, the
    rows of F being phi of the training images. For r = 0 that is the set with the labels that fit all training labels
    best (Label Solve); for r > 0 it is the approximation that the images of the set give to kernel ridge regression on
    *all* training images (Nystroem). Either way a prediction is a weighted sum of training labels, w(x)^T T_y. Leave
    image t out, solve again, and f falls by w_t(x) (y_t - f(t)) / (1 - w_t(t)): exactly, for all t at once.

    The images of the set stay as they are: that they, too, were learned from image t is not counted.

    Args:
        explainer: Explainer of the set.
        records: Training images, in the value space of the set, no fewer than it has; read once, 1000 at a time.
        ridge: Ridge r in units of the mean of the diagonal of k(S, S): that of a regression on all training images
            whose rankings are wanted; 0 for the set itself.

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
        """Return the fall of the score of the predicted class without each training image, (B, N) float64.

        It is positive where the image supports the prediction.
        """
        return self.weights(x) * self._pull.T[self.predict(x).argmax(1)]

    def behind(self, x: Tensor, count: int) -> Tensor:
        """Return the training images that support the predicted class most, (B, count) int64, the first first."""
        require(1 <= count <= len(self._left), "count", f"lie in 1..{len(self._left)}", count)
        return self.falls(x).topk(count, dim=1).indices


def draw_explanations(
    explainer: Explainer, records: dd.RealData, queries: dd.RealData, index: Tensor, path: str | Path
) -> None:
    """Draw a row for each query: itself, four synthetic images for its class, two against, four training images.

    Numbers are contributions of synthetic images to the predicted class, and 1000 times the falls of its score without
    training images.

    Args:
        explainer: Explainer of the set.
        records: Training images of the set.
        queries: Images to explain, in the value space of the records.
        index: Positions of those that are drawn, (B,) int64.
        path: Picture to write, such as of .png or .svg.
    """
    x = queries.batch(index).x
    found, influence = explainer.explain(x), Influence(explainer, records)
    falls = influence.falls(x)
    columns = 1 + _FOR + _AGAINST + _BEHIND
    figure = empty_figure(1.05 * columns, 1.3 * len(index))
    axes = figure.subplots(len(index), columns, squeeze=False)
    whole = records.batch(torch.arange(len(records))).x
    for row, cells in enumerate(axes):
        order = found.own[row].argsort(descending=True)
        synthetic = torch.cat([order[:_FOR], order[len(order) - _AGAINST :].flip(0)])
        behind = falls[row].topk(_BEHIND).indices
        name = records.class_names[int(found.classes[row])]
        shown = [(x[row], f"predicted {name}")]
        shown += [(explainer.images[i], f"{float(found.own[row, i]):+.2f}") for i in synthetic]
        shown += [(whole[i], f"train {1000 * float(falls[row, i]):+.1f}") for i in behind]
        for cell, (image, title) in zip(cells, shown, strict=True):
            pixels = records.preprocess.inverse(image[None])[0].clamp(0, 1).permute(1, 2, 0).cpu()
            cell.imshow(pixels.squeeze(-1).numpy(), cmap="gray", vmin=0, vmax=1)
            cell.set_title(title, fontsize=7)
            cell.axis("off")
    figure.savefig(path, dpi=120)
