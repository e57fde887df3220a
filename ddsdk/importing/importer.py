"""Conversion of a released set to an artefact: value space, labels, protocol and provenance."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot, softmax

from ddsdk.artefact import Distilled
from ddsdk.data import RealData
from ddsdk.foundation import note, require
from ddsdk.importing.layouts import LAYOUTS, Layout, ReadOptions, ReleasedSet, detected_layout, stored_per_class
from ddsdk.importing.restricted import file_records, refuse
from ddsdk.importing.spaces import SpaceFit, normalisation, space_fits
from ddsdk.recipes import RECIPES


def import_set(
    path: str | os.PathLike[str],
    real: RealData,
    *,
    layout: str = "auto",
    space: str = "auto",
    labels: str = "stored",
    method: str | None = None,
    experiment: int | None = None,
    factor: int | None = None,
    learned_lr: float | None = None,
) -> Distilled:
    """Return a set that other code has saved, as an artefact.

    The value space is that of the code base. Where the code base has several, or none is known, the statistics of the
    set are compared with those of the real images in each space; unless exactly one fits, the space must be named.
    Files that cannot be read, have another layout, or do not fit the data give an `ArtifactError`.

    Args:
        path: File or folder of the set.
        real: Real training data of the set, with all images, for the class names and the value space.
        layout: Name of the layout, a key of `ddsdk.importing.LAYOUTS`; auto finds it by the names of the files.
        space: Name of the value space, a key of `ddsdk.importing.SPACES`; auto takes the only one that fits.
        labels: Origin of the labels: stored, or class-major for equally many images of each class in the order of the
            classes.
        method: Name of the recipe whose protocol the artefact gets. None for that of the layout.
        experiment: Number of the set in a file with several, from 0. None for the last one, as its authors take it.
        factor: Tiles along each side of a stored image. None for the number in the name of the folder.
        learned_lr: Learning rate that was learned with the set, where no file has it. None for none.

    Returns:
        The artefact. Its provenance has the layout, the hash of each file, and all that was assumed.

    Examples:
        >>> import ddsdk, torch
        >>> from ddsdk.importing import import_set
        >>> real = ddsdk.load("digits")
        >>> distilled = ddsdk.distill(ddsdk.BASELINES["random"](ipc=5), real)
        >>> pairs = [[distilled.images, distilled.owner]]
        >>> torch.save({"data": pairs, "accs_all_exps": {}}, "res_DM_digits_ConvNet_5ipc.pt")
        >>> import_set("res_DM_digits_ConvNet_5ipc.pt", real)
        Distilled(recipe='dm', images=(50, 1, 8, 8), classes=10, ipc=5)
    """
    path = Path(path)
    name = detected_layout(path) if layout == "auto" else layout
    require(name in LAYOUTS, "layout", f"be auto or among {', '.join(LAYOUTS)}", name)
    require(labels in ("stored", "class-major"), "labels", "be stored or class-major", labels)
    chosen = LAYOUTS[name]
    file = chosen.finds(path) or (path if path.is_file() else None)
    if file is None:
        refuse("layout", f"path must hold the files of the layout {name}, {chosen.text}, got {str(path)!r}")
    options = ReadOptions(class_names=real.class_names, experiment=experiment, factor=factor)
    released = chosen.read(file, options)
    if isinstance(released, Distilled):
        return released
    _check_shape(released, real)
    rows, kind = _rows(released, real.num_classes, labels)
    fit, assumed = _space(released, chosen, real, name, space)
    recipe = _recipe(method or released.method, stored_per_class(released, real.num_classes))
    rate = released.learned_lr if learned_lr is None else learned_lr
    if chosen.loses_rate and rate is None:
        note("no file has the learned learning rate, with which the authors train; pass learned_lr if it is known")
    images, preprocess = released.images, fit.preprocess
    if chosen.unit and fit.name == "unit":
        preprocess = normalisation(chosen.code_base, real)
        images = preprocess(images)
    origin = {
        "layout": name,
        "files": file_records(released.files),
        "space": fit.name,
        "space_is": assumed,
        "standard_deviation_ratio": round(fit.ratio, 4),
        "mean_shift": round(fit.shift, 4),
        "outside_of_unit_range": round(fit.outside, 4),
        "labels": labels,
        "learned_lr": "file" if released.learned_lr is not None and learned_lr is None else "user" if rate else "none",
        "licence": "unknown",
        **released.facts,
    }
    return Distilled(
        images,
        rows,
        class_names=real.class_names,
        preprocess=preprocess,
        protocol=recipe.protocol(real.with_preprocess(preprocess)).to_dict(),
        label_space=kind,
        learned_lr=rate,
        classes=rows.argmax(1),
        stored_floats=released.stored_floats,
        provenance={"recipe": recipe.name, "imported": origin, "data": real.description},
    )


def _recipe(name: str, ipc: int) -> Any:  # noqa: ANN401
    require(name in RECIPES, "method", f"be a recipe, {', '.join(RECIPES)}", name)
    return RECIPES[name](ipc=ipc)


def _check_shape(released: ReleasedSet, real: RealData) -> None:
    found, expected = tuple(released.images.shape[1:]), tuple(real.image_shape)
    if found != expected:
        refuse("shape", f"images must have the shape {expected} of {real.name}, got {found}")
    if not bool(torch.isfinite(released.images).all()):
        refuse("values", "images must be finite, got NaN or infinity")


def _rows(released: ReleasedSet, classes: int, origin: str) -> tuple[Tensor, str]:
    """Return the label rows, (M, K), and their space."""
    count, labels = len(released.images), released.labels
    if origin == "class-major":
        rule = f"be stored: {count} images are not equally many for each of {classes} classes"
        require(count % classes == 0, "labels", rule, origin)
        labels = torch.arange(classes).repeat_interleave(count // classes)
        return one_hot(labels, classes).float(), "probabilities"
    if labels is None:
        refuse("labels", "labels must be 'class-major' for files without labels, if that is their order")
    if len(labels) != count:
        refuse("labels", f"labels must be as many as the {count} images, got {len(labels)}")
    if released.kind == "ids":
        if labels.ndim != 1 or int(labels.min()) < 0 or int(labels.max()) >= classes:
            got = f"{tuple(labels.shape)} in {int(labels.min())}..{int(labels.max())}"
            refuse("labels", f"labels must be class ids below {classes}, got {got}")
        return one_hot(labels, classes).float(), "probabilities"
    if labels.ndim != 2 or labels.shape[1] != classes:
        refuse("labels", f"labels must have {classes} columns, got {tuple(labels.shape)}")
    faulty = ~torch.isfinite(labels).all(1)
    if bool(faulty.any()):
        number = int(faulty.nonzero()[0])
        refuse("labels", f"labels must be finite, got NaN or infinity in row {number}; no expert was right")
    rows = softmax(labels.double(), 1).float() if released.kind == "logits" else labels.float()
    if released.kind == "probabilities":
        rows = rows / rows.sum(1, keepdim=True)
    return rows, "scores" if released.kind == "scores" else "probabilities"


def _space(released: ReleasedSet, layout: Layout, real: RealData, name: str, space: str) -> tuple[SpaceFit, str]:
    """Return the value space of a set, and whether it was named, found by statistics or that of the layout."""
    grey = released.images.shape[1] == 1
    offered = layout.grey_spaces if grey else layout.spaces
    if space != "auto":
        return space_fits(released.images, real, layout.code_base, [space])[0], "named by the user"
    if not offered:
        measured = space_fits(released.images, real, layout.code_base, ["unit", "normalised"])
        tried = ", ".join(map(str, measured))
        refuse("space", f"space must be named for the layout {name}; the statistics: {tried}")
    measured = space_fits(released.images, real, layout.code_base, offered)
    fitting = [fit for fit in measured if fit.fits]
    if len(fitting) != 1:
        many = "several spaces fit" if fitting else "no space fits"
        tried = ", ".join(map(str, measured))
        refuse("space", f"space must be named, because {many} the statistics of the set: {tried}")
    return fitting[0], "the only one of the layout that fits" if len(offered) > 1 else "that of the layout"
