"""Distillation of canvases with any matching recipe, and windows of canvases as training images."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

import ddsdk as dd
from ddsdk.foundation import as_generator, derive, require, require_count
from ddsdk.recipes import IterativeRecipe, start_images, unit_bounds
from ddsdk.running import Run
from ddsdk.students import MakeStudent
from ddsdk.synthetic import TileableCanvas
from ddsdk_integrations.texture.seam import seam_scores


def distil_canvases(
    recipe: IterativeRecipe,
    real: dd.RealData,
    *,
    make_student: MakeStudent | None = None,
    seed: int | torch.Generator = 0,
    factor: int = 2,
    windows: int = 1,
    wrap: bool = True,
) -> dd.Distilled:
    """Return canvases that are distilled with a recipe in place of images.

    Each step uses random windows of image size, which wrap around the edges of the canvas. Canvases start as noise.
    The images of the result are the canvases, which are larger than the real images; `windows_of` cuts training images
    from them.

    Args:
        recipe: Matching recipe, whose students, objective, optimizer and steps are used unchanged.
        real: Real data without ZCA whitening, which would not map a canvas back to pixels.
        make_student: Factory of the student networks; None takes the network of the recipe's protocol.
        seed: Root of all random numbers: an integer, or a generator, which is not advanced.
        factor: Side of a canvas in units of the side of an image; the storage budget grows by factor^2.
        windows: Number of windows of each canvas in one step.
        wrap: Whether windows wrap around the edges; False keeps them inside, for comparison.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.texture import distil_canvases
        >>> real = ddsdk.load("digits")
        >>> factory = ddsdk.network_factory("convnet", real.image_shape, 10, width=4)
        >>> recipe = ddsdk.DM(ipc=1, steps=2, real_batch=16)
        >>> distil_canvases(recipe, real, make_student=factory, factor=3).images.shape
        torch.Size([10, 1, 24, 24])
    """
    require(real.preprocess.space != "zca", "real", "not be whitened", real.preprocess.space)
    require_count("factor", factor)
    rng = as_generator(seed)

    def on_canvases(plan: dd.Plan[Any]) -> dd.Plan[Any]:
        canvases = _noise(recipe, real, factor, derive(rng, "canvas"))
        height, width = real.image_shape[1:]
        tileable = TileableCanvas(canvases, (height, width), windows=windows, wrap=wrap, bounds=unit_bounds(real))
        old = plan.syn
        syn = dd.SyntheticSet(tileable, old.labels, old.classes, old.num_classes, old.rate, old.scale)
        return dataclasses.replace(plan, syn=syn.to(real.device))

    run = Run(recipe, real, make_student=make_student, seed=rng, transform=on_canvases)
    distilled = run.complete()
    syn = run.distillation.result
    tileable: Any = syn.parametrization
    images = tileable.canvases.detach().float().cpu()
    scores = seam_scores(images)
    # The run exports windows; the result holds the canvases, with one label each.
    return dataclasses.replace(
        distilled,
        images=images,
        labels=syn.labels.rows(torch.arange(len(syn)).to(syn.device)).detach().float().cpu(),
        classes=syn.classes.cpu(),
        provenance={
            **distilled.provenance,
            "canvas": {"factor": factor, "wrap": wrap, "window": list(real.image_shape[1:])},
            "seam": {"rows": float(scores[:, 0].mean()), "columns": float(scores[:, 1].mean())},
        },
    )


def _noise(recipe: IterativeRecipe, real: dd.RealData, factor: int, rng: torch.Generator) -> torch.Tensor:
    """Return canvases of standard normal noise, (K ipc, C, factor H, factor W)."""
    patches = start_images(real, recipe.ipc * factor * factor, "noise", rng)
    m, (c, h, w) = real.num_classes * recipe.ipc, real.image_shape
    grid = patches.view(m, factor, factor, c, h, w).permute(0, 3, 1, 4, 2, 5)
    return grid.reshape(m, c, factor * h, factor * w)


def windows_of(canvases: dd.Distilled, count: int, rng: torch.Generator) -> dd.Distilled:
    """Return random windows of canvases as a training set, whose storage budget is that of the canvases.

    Args:
        canvases: Set of canvases from `distil_canvases`.
        count: Number of windows of each canvas.
        rng: Generator of the positions of the windows.

    Raises:
        ValueError: If the set does not come from `distil_canvases`.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.texture import distil_canvases, windows_of
        >>> real = ddsdk.load("digits")
        >>> factory = ddsdk.network_factory("convnet", real.image_shape, 10, width=4)
        >>> canvases = distil_canvases(ddsdk.DM(ipc=1, steps=2, real_batch=16), real, make_student=factory)
        >>> windows_of(canvases, 3, ddsdk.generator(0)).images.shape
        torch.Size([30, 1, 8, 8])
    """
    require_count("count", count)
    settings = canvases.provenance.get("canvas")
    if settings is None:
        raise ValueError(f"canvases must come from distil_canvases, got {canvases!r}")
    height, width = settings["window"]
    wrap = bool(settings["wrap"])
    tileable = TileableCanvas(canvases.images, (height, width), windows=count, wrap=wrap)
    with torch.no_grad():
        images, owners = tileable.decode(torch.arange(len(canvases)), rng)
    return dataclasses.replace(
        canvases,
        images=images,
        labels=canvases.labels[owners],
        classes=canvases.owner[owners],
        stored_floats=canvases.stored_floats,
    )
