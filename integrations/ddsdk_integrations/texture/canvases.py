"""Distil canvases with any matcher, and train on windows of them."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import torch

import ddsdk as dd
from ddsdk.artefact import provenance
from ddsdk.foundation import derive, require, require_count
from ddsdk.recipes import IterativeRecipe, start_images, unit_bounds
from ddsdk.students import MakeStudent
from ddsdk.synthetic import TileableCanvas
from ddsdk_integrations.texture.seam import seam_scores

__all__ = ["distil_canvases", "windows_of"]


def distil_canvases(
    recipe: IterativeRecipe,
    real: dd.RealData,
    *,
    make_student: MakeStudent,
    rng: torch.Generator,
    factor: int = 2,
    windows: int = 1,
    wrap: bool = True,
) -> dd.Distilled:
    """Run a recipe on canvases in place of images; return the canvases, which start as noise.

    Each step sees windows of the size of an image, at random places, that wrap around. The set that comes back holds
    the canvases as its images, larger than those of the data: they are what is stored, shown and exported. To train
    on them, take `windows_of`.

    Args:
        recipe: Any that matches decoded images: its students, objective, optimizer and steps stay.
        real: What to distil, not whitened: a whitened canvas cannot be brought back to pixels.
        make_student: For the recipe.
        rng: Root of every random number.
        factor: Sides of a canvas over those of an image. It stores factor^2 times as many floats.
        windows: Of each canvas in a step.
        wrap: False keeps windows inside: for comparison.

    Raises:
        ValueError: If `real` is whitened, or a number is out of range.
    """
    require(real.preprocess.space != "zca", "real", "not be whitened", real.preprocess.space)
    require_count("factor", factor)
    began = time.perf_counter()
    plan = recipe.plan(real, make_student=make_student, rng=derive(rng, "plan"))
    canvas = _noise(recipe, real, factor, derive(rng, "canvas"))
    height, width = real.image_shape[1:]
    how: dict[str, Any] = {"windows": windows, "wrap": wrap, "bounds": unit_bounds(real)}
    old = plan.syn
    parametrization = TileableCanvas(canvas, (height, width), **how)
    parts = (old.labels, old.classes, old.num_classes, old.rate, old.scale)
    plan = dataclasses.replace(plan, syn=dd.SyntheticSet(parametrization, *parts).to(real.device))
    distillation = dd.Distillation(plan, real, rng=derive(rng, "steps"))
    for _ in distillation:
        pass
    return _assembled(
        recipe,
        distillation,
        real,
        make_student,
        rng,
        time.perf_counter() - began,
        {"factor": factor, "wrap": wrap},
    )


def _noise(recipe: IterativeRecipe, real: dd.RealData, factor: int, rng: torch.Generator) -> torch.Tensor:
    """Return standard normal canvases, (K*ipc, C, factor*H, factor*W)."""
    patches = start_images(real, recipe.ipc * factor * factor, "noise", rng)
    m, (c, h, w) = real.num_classes * recipe.ipc, real.image_shape
    grid = patches.view(m, factor, factor, c, h, w).permute(0, 3, 1, 4, 2, 5)
    return grid.reshape(m, c, factor * h, factor * w)


def _assembled(
    recipe: IterativeRecipe,
    distillation: dd.Distillation[Any],
    real: dd.RealData,
    make_student: MakeStudent,
    rng: torch.Generator,
    seconds: float,
    canvas: dict[str, Any],
) -> dd.Distilled:
    syn = distillation.result
    canvases = dict(syn.parametrization.named_parameters())["canvases"]
    images = canvases.detach()
    scores = seam_scores(images)
    record = distillation.record()
    told = provenance(recipe, real, rng=rng, seconds=seconds, make_student=make_student, run=record)
    return dd.Distilled(
        images.float().cpu(),
        syn.labels.rows(torch.arange(len(syn)).to(syn.device)).detach().float().cpu(),
        class_names=real.class_names,
        preprocess=real.preprocess.to("cpu"),
        evaluation=recipe.evaluation(real).to_dict(),
        classes=syn.classes.cpu(),
        label_space=syn.labels.space,
        provenance={
            **told,
            "canvas": {**canvas, "window": list(real.image_shape[1:])},
            "seam": {"rows": float(scores[:, 0].mean()), "columns": float(scores[:, 1].mean())},
        },
    )


def windows_of(canvases: dd.Distilled, count: int, rng: torch.Generator) -> dd.Distilled:
    """Return `count` windows of each canvas as a set to train on; it says that it stores the canvases.

    Args:
        canvases: Of `distil_canvases`.
        count: Windows of each.
        rng: Draws their places.

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
