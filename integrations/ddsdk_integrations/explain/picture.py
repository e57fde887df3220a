"""Explanations as a picture: what is predicted, the synthetic images for and against it, the training images behind."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

import ddsdk as dd
from ddsdk.experiments import empty_figure
from ddsdk_integrations.explain.influence import Influence
from ddsdk_integrations.explain.weights import Explainer

_FOR, _AGAINST, _BEHIND = 4, 2, 4


def draw_explanations(
    explainer: Explainer, records: dd.RealData, queries: dd.RealData, index: Tensor, path: str | Path
) -> None:
    """Draw a row for each query: itself, four synthetic images for its class, two against, four training images.

    Numbers are what a synthetic image adds to the predicted class, and by how much the score falls without a training
    image (times 1000).

    Args:
        explainer: Of the set.
        records: What the set was made of.
        queries: Images to explain, in the value space of the records.
        index: Which of them, (B,) int64.
        path: The picture, such as of .png or .svg.

    Raises:
        MissingExtraError: If matplotlib is not installed.
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
