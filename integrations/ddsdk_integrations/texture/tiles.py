"""Export of canvases as tileable PNG files, and a gallery."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import nn

import ddsdk as dd
from ddsdk.artefact import png_bytes, to_pixels
from ddsdk.experiments import empty_figure, write_figure
from ddsdk.foundation import file_stem, make_folder, readable_json, require, staged_folder, write_atomic
from ddsdk.training import probabilities
from ddsdk_integrations.texture.canvases import windows_of
from ddsdk_integrations.texture.seam import repeat_tiles, seam_scores

_WINDOWS = 4


def export_tiles(
    canvases: dd.Distilled, folder: str | os.PathLike[str], *, repeat: int = 3, limit: float = 0.25
) -> None:
    """Export each canvas as a tileable PNG and as a wallpaper of several tiles, with a file of seam scores.

    Pixels are clipped to the unit range and rounded to 8 bits before the seam is measured. ``tiles.json`` has the
    scores, the storage budget and the source of the canvases, whose licence also applies to the pictures. Canvases
    that do not tile within the limit raise ValueError, and nothing is written. A folder that is not empty or cannot be
    written raises StorageError.

    Args:
        canvases: Canvases from `distil_canvases`, with 1 or 3 channels.
        folder: Path of a new or empty folder.
        repeat: Tiles along each side of a wallpaper.
        limit: Largest distance from 1 of the mean seam scores, over all canvases, of rows and of columns. The score of
            a single small canvas varies, because even a seamless edge is a random line of pixels.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.texture import distil_canvases, export_tiles
        >>> real = ddsdk.load("digits")
        >>> factory = ddsdk.network_factory("convnet", real.image_shape, 10, width=4)
        >>> canvases = distil_canvases(ddsdk.DM(ipc=1, steps=2, real_batch=16), real, make_student=factory)
        >>> export_tiles(canvases, "tiles", limit=1.0)
    """
    channels = canvases.images.shape[1]
    require(channels in (1, 3), "canvases", "have 1 or 3 channels for PNG", channels)
    unit = (canvases.unit_images() * 255).round() / 255
    scores = seam_scores(unit)
    mean = scores.mean(0)
    rule = f"have mean seam scores within {limit:g} of 1"
    rounded_scores = [round(value, 3) for value in mean.tolist()]
    require(float((mean - 1).abs().max()) <= limit, "canvases", rule, rounded_scores)
    make_folder(Path(folder).parent)
    owner = canvases.owner.tolist()
    names = [f"{i:03d}_{file_stem(canvases.class_names[c])}" for i, c in enumerate(owner)]
    with staged_folder(folder) as staged:
        for kind, pixels in (("tile", unit), ("wallpaper", repeat_tiles(unit, repeat))):
            for name, picture in zip(names, to_pixels(pixels), strict=True):
                write_atomic(staged / f"{name}_{kind}.png", png_bytes(Image.fromarray(picture)))
        record = {
            "seam": dict(zip(names, scores.tolist(), strict=True)),
            "limit": limit,
            "stored_floats": canvases.stored_floats,
            "source": canvases.provenance.get("data", {}),
        }
        write_atomic(staged / "tiles.json", readable_json(record))


def draw_gallery(
    canvases: dd.Distilled,
    path: str | Path,
    *,
    rng: torch.Generator,
    networks: Sequence[nn.Module] = (),
    classes: int = 4,
) -> None:
    """Draw the first canvas of each class, three by three tiles of it, and four windows; needs matplotlib.

    Args:
        canvases: Set of canvases from `distil_canvases`.
        path: Path of the picture, with an ending such as .png or .svg.
        rng: Generator of the positions of the windows.
        networks: Classifiers of the real data, whose mean probability of the class is written over each window.
        classes: Number of classes in the picture, the first ones.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.texture import distil_canvases, draw_gallery
        >>> real = ddsdk.load("digits")
        >>> factory = ddsdk.network_factory("convnet", real.image_shape, 10, width=4)
        >>> canvases = distil_canvases(ddsdk.DM(ipc=1, steps=2, real_batch=16), real, make_student=factory)
        >>> draw_gallery(canvases, "gallery.png", rng=ddsdk.generator(0), classes=2)
    """
    chosen = [int((canvases.owner == c).nonzero()[0]) for c in canvases.owner.unique().tolist()[:classes]]  # type: ignore[no-untyped-call]
    figure = empty_figure(1.5 * (_WINDOWS + 2), 1.6 * len(chosen))
    axes = figure.subplots(len(chosen), _WINDOWS + 2, squeeze=False)
    windows = windows_of(canvases, _WINDOWS, rng)
    unit, scores = canvases.unit_images(), seam_scores(canvases.images).mean(1)
    for cells, i in zip(axes, chosen, strict=True):
        c = int(canvases.owner[i])
        titles = [f"{canvases.class_names[c]}, seam {float(scores[i]):.2f}", "3 x 3"]
        pictures = [unit[i], repeat_tiles(unit[i : i + 1])[0]]
        for k in range(i * _WINDOWS, (i + 1) * _WINDOWS):
            pictures.append(windows.unit_images()[k])
            confidences = [probabilities(network, windows.images[k : k + 1])[0, c] for network in networks]
            titles.append(f"p = {float(torch.stack(confidences).mean()):.2f}" if confidences else "")
        for cell, picture, title in zip(cells, pictures, titles, strict=True):
            pixels = picture.permute(1, 2, 0).squeeze(-1).numpy()
            cell.imshow(pixels, cmap="gray", vmin=0, vmax=1)
            cell.set_title(title, fontsize=7)
            cell.axis("off")
    write_figure(figure, path)
