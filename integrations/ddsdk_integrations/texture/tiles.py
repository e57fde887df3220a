"""PNG files that tile, and a gallery."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import nn

import ddsdk as dd
from ddsdk.artefact import png_bytes, to_pixels
from ddsdk.experiments import empty_figure
from ddsdk.foundation import file_stem, readable_json, require, staged_folder, write_atomic
from ddsdk.training import probabilities
from ddsdk_integrations.texture.canvases import windows_of
from ddsdk_integrations.texture.seam import seam_scores, tiled

_SHOWN = 4


def export_tiles(
    canvases: dd.Distilled, folder: str | os.PathLike[str], *, repeat: int = 3, limit: float = 0.25
) -> None:
    """Write each canvas as a PNG that tiles, beside itself as a wallpaper, and what was measured of them.

    Pixels are clipped to the unit range and rounded to 8 bits, and the seam is measured on *those*. ``tiles.json`` has
    the scores, the floats and the source: pictures derive from training images, whose terms hold for them too.

    Args:
        canvases: Of `distil_canvases`, with 1 or 3 channels.
        folder: New or empty.
        repeat: Tiles along each side of a wallpaper.
        limit: Largest distance from 1 of the mean scores of rows and of columns over all canvases. That of one small
            canvas varies: a seamless edge is as strong as any other line.

    Raises:
        ValueError: If the canvases do not tile within the limit; nothing is written.
        StorageError: If the folder holds something or cannot be written.
    """
    channels = canvases.images.shape[1]
    require(channels in (1, 3), "canvases", "have 1 or 3 channels to become PNG", channels)
    unit = (canvases.unit_images() * 255).round() / 255
    scores = seam_scores(unit)
    mean = scores.mean(0)
    rule = f"have mean seam scores within {limit:g} of 1"
    told_scores = [round(value, 3) for value in mean.tolist()]
    require(float((mean - 1).abs().max()) <= limit, "canvases", rule, told_scores)
    Path(folder).parent.mkdir(parents=True, exist_ok=True)
    owner = canvases.owner.tolist()
    names = [f"{i:03d}_{file_stem(canvases.class_names[c])}" for i, c in enumerate(owner)]
    with staged_folder(folder) as staged:
        for kind, pixels in (("tile", unit), ("wallpaper", tiled(unit, repeat))):
            for name, picture in zip(names, to_pixels(pixels), strict=True):
                write_atomic(staged / f"{name}_{kind}.png", png_bytes(Image.fromarray(picture)))
        told = {
            "seam": dict(zip(names, scores.tolist(), strict=True)),
            "limit": limit,
            "stored_floats": canvases.stored_floats,
            "source": canvases.provenance.get("data", {}),
        }
        write_atomic(staged / "tiles.json", readable_json(told))


def draw_gallery(
    canvases: dd.Distilled,
    path: str | Path,
    *,
    rng: torch.Generator,
    networks: Sequence[nn.Module] = (),
    classes: int = 4,
) -> None:
    """Draw for each class its canvas, three by three of them, and windows with the probability of their class.

    Args:
        canvases: Of `distil_canvases`.
        path: The picture, such as of .png or .svg.
        rng: Places the windows.
        networks: Classifiers of the data, whose mean probability of the class is written over a window.
        classes: How many classes are drawn.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    shown = [int((canvases.owner == c).nonzero()[0]) for c in canvases.owner.unique().tolist()[:classes]]  # type: ignore[no-untyped-call]
    figure = empty_figure(1.5 * (_SHOWN + 2), 1.6 * len(shown))
    axes = figure.subplots(len(shown), _SHOWN + 2, squeeze=False)
    cut = windows_of(canvases, _SHOWN, rng)
    unit, scores = canvases.unit_images(), seam_scores(canvases.images).mean(1)
    for cells, i in zip(axes, shown, strict=True):
        c = int(canvases.owner[i])
        titles = [f"{canvases.class_names[c]}, seam {float(scores[i]):.2f}", "3 x 3"]
        pictures = [unit[i], tiled(unit[i : i + 1])[0]]
        for k in range(i * _SHOWN, (i + 1) * _SHOWN):
            pictures.append(cut.unit_images()[k])
            sure = [probabilities(network, cut.images[k : k + 1])[0, c] for network in networks]
            titles.append(f"p = {float(torch.stack(sure).mean()):.2f}" if sure else "")
        for cell, picture, title in zip(cells, pictures, titles, strict=True):
            pixels = picture.permute(1, 2, 0).squeeze(-1).numpy()
            cell.imshow(pixels, cmap="gray", vmin=0, vmax=1)
            cell.set_title(title, fontsize=7)
            cell.axis("off")
    figure.savefig(path, dpi=120)
