"""Distil canvases with any matcher, and train on windows of them."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

import ddsdk as dd
from ddsdk.foundation import derive, require, require_count, root
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
    """Run a recipe on canvases in place of images; return the canvases, which start as noise.

    Each step sees windows of the size of an image, at random places, that wrap around. The set that comes back holds
    the canvases as its images, larger than those of the data: they are what is stored, shown and exported. To train
    on them, take `windows_of`.

    Args:
        recipe: Recipe that matches decoded images: its students, objective, optimizer and steps stay.
        real: Real data, not whitened: a whitened canvas cannot be brought back to pixels.
        make_student: Factory of the student networks; None takes the network of the recipe's own protocol.
        seed: Root of every random number: an integer, or a generator, which is not advanced.
        factor: Sides of a canvas over those of an image. It stores factor^2 times as many floats.
        windows: Number of windows of each canvas in one step.
        wrap: Whether windows wrap around the edge; False keeps them inside, for comparison.

    Raises:
        ValueError: If `real` is whitened, or a number is out of range.
    """
    require(real.preprocess.space != "zca", "real", "not be whitened", real.preprocess.space)
    require_count("factor", factor)
    rng = root(seed)

    def on_canvases(plan: dd.Plan[Any]) -> dd.Plan[Any]:
        canvases = _noise(recipe, real, factor, derive(rng, "canvas"))
        height, width = real.image_shape[1:]
        cut = TileableCanvas(canvases, (height, width), windows=windows, wrap=wrap, bounds=unit_bounds(real))
        old = plan.syn
        syn = dd.SyntheticSet(cut, old.labels, old.classes, old.num_classes, old.rate, old.scale)
        return dataclasses.replace(plan, syn=syn.to(real.device))

    run = Run(recipe, real, make_student=make_student, seed=rng, transform=on_canvases)
    made = run.complete()
    syn = run.distillation.result
    stored: Any = syn.parametrization
    images = stored.canvases.detach().float().cpu()
    scores = seam_scores(images)
    return dataclasses.replace(
        made,
        images=images,
        labels=syn.labels.rows(torch.arange(len(syn)).to(syn.device)).detach().float().cpu(),
        classes=syn.classes.cpu(),
        provenance={
            **made.provenance,
            "canvas": {"factor": factor, "wrap": wrap, "window": list(real.image_shape[1:])},
            "seam": {"rows": float(scores[:, 0].mean()), "columns": float(scores[:, 1].mean())},
        },
    )


def _noise(recipe: IterativeRecipe, real: dd.RealData, factor: int, rng: torch.Generator) -> torch.Tensor:
    """Return standard normal canvases, (K*ipc, C, factor*H, factor*W)."""
    patches = start_images(real, recipe.ipc * factor * factor, "noise", rng)
    m, (c, h, w) = real.num_classes * recipe.ipc, real.image_shape
    grid = patches.view(m, factor, factor, c, h, w).permute(0, 3, 1, 4, 2, 5)
    return grid.reshape(m, c, factor * h, factor * w)


def windows_of(canvases: dd.Distilled, count: int, rng: torch.Generator) -> dd.Distilled:
    """Return `count` windows of each canvas as a set to train on; it says that it stores the canvases.

    Args:
        canvases: Set of `distil_canvases`.
        count: Number of windows of each canvas.
        rng: Generator of their places.

    Raises:
        ValueError: If the set does not say what its windows are.
    """
    require_count("count", count)
    told = canvases.provenance.get("canvas")
    if told is None:
        raise ValueError(f"canvases must come from distil_canvases, got {canvases!r}")
    height, width = told["window"]
    wrap = bool(told["wrap"])
    cut = TileableCanvas(canvases.images, (height, width), windows=count, wrap=wrap)
    with torch.no_grad():
        images, owners = cut.decode(torch.arange(len(canvases)), rng)
    return dataclasses.replace(
        canvases,
        images=images,
        labels=canvases.labels[owners],
        classes=canvases.owner[owners],
        stored_floats=canvases.stored_floats,
    )
