"""Warm starts: the images, labels and learning rates of an earlier set as the start of a run."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from ddsdk.artefact import DataDescription, Distilled
from ddsdk.foundation import clean, derive, require
from ddsdk.synthetic import MultiFormation, Pixels, SyntheticSet

WarmStart: TypeAlias = Distilled | SyntheticSet | tuple[Tensor, Tensor]
"""An artefact; a synthetic set in the value space of the data; or a pair of images (M, C, H, W) in the unit range and
class ids (M,) int64."""


@torch.no_grad()
def warm_start_(syn: SyntheticSet, start: WarmStart, real: DataDescription, rng: torch.Generator) -> dict[str, Any]:
    """Replace the images of a synthetic set by those of an earlier set, class by class.

    Each class takes its first images of the earlier set, as many as it decodes to. A class with fewer images keeps its
    own start for the others. A parametrization other than pixels is fitted to the images by its `encode`. A synthetic
    set of the same form is copied exactly. Labels and learned rates of an artefact replace those of `syn` if `syn`
    learns them too. Images of another shape, and other classes, give a ValueError.

    Args:
        syn: Synthetic set at its start, not a graph; it is changed in place.
        start: Earlier set of the same classes and image shape.
        real: Description of the data, with the class names and the value space of `syn`.
        rng: Generator of stochastic decoders; it is not advanced.

    Returns:
        The provenance of the start: numbers of images that were used and left out, and for an artefact its content id
        and whether labels and rates were used.

    Examples:
        >>> import ddsdk
        >>> real = ddsdk.load("digits")
        >>> recipe = ddsdk.DM(ipc=1, steps=1, real_batch=8)
        >>> first = ddsdk.distill(recipe, real, seed=0)
        >>> second = ddsdk.distill(recipe, real, seed=1, start=first)
        >>> second.provenance["start"]["images"], second.provenance["start"]["left_out"]
        (10, 0)
    """
    require(not syn.parametrization.joint, "start", "be left out for graphs", type(start).__name__)
    if isinstance(start, SyntheticSet):
        if _loaded(syn, start):
            return {"images": len(syn), "left_out": 0}
        target, source = _stored_pixels(syn), _stored_pixels(start)
        if target is not None and source is not None and target.form == source.form:
            rows, source_rows = _pairs_by_class(syn.classes, start.classes)
            target.pixels[rows] = source.pixels[source_rows].to(target.pixels)
            return {"images": len(rows), "left_out": len(start) - len(rows)}
    images, classes = _images(start, real, derive(rng, "start"))
    rule = f"hold classes of 0..{syn.num_classes - 1}"
    require(bool(((classes >= 0) & (classes < syn.num_classes)).all()), "start", rule, classes.tolist()[:5])
    slots = torch.arange(len(syn), device=syn.device)
    decoded, owners = syn.parametrization.decode(slots, derive(rng, "begin"))
    shape = tuple(decoded.shape[1:])
    require(tuple(images.shape[1:]) == shape, "start", f"hold images of shape {shape}", tuple(images.shape[1:]))
    rows, source_rows = _pairs_by_class(syn.classes[owners], classes)
    decoded = decoded.detach().clone()
    decoded[rows] = images[source_rows].to(decoded)
    syn.parametrization.encode(decoded)
    record: dict[str, Any] = {"images": len(rows), "left_out": len(images) - len(rows)}
    if isinstance(start, Distilled):
        record["set"] = start.content_id
        # Labels belong to slots; they can be taken over only where each slot decodes to one image.
        labels_fit = len(decoded) == len(syn) and start.label_space == syn.labels.space
        assignment = rows.to(syn.device), start.labels[source_rows].to(syn.device)
        record["labels"] = labels_fit and syn.labels.assign_(*assignment)
        record["rates"] = syn.rate is not None and syn.rate.assign_(start.learned_lr, start.learned_momentum)
    return record


def _loaded(syn: SyntheticSet, start: SyntheticSet) -> bool:
    """Return whether the two sets have the same form, after the state of `start` is copied if they do."""
    if _form(syn) != _form(start) or not torch.equal(syn.classes.cpu(), start.classes.cpu()):
        return False
    syn.load_state_dict(start.state_dict())
    return True


def _form(syn: SyntheticSet) -> tuple[Any, ...]:
    """Return the properties that must be equal in two sets for one to take the state of the other."""
    parametrization, labels = syn.parametrization, syn.labels
    # Shapes do not suffice: canvases with other tile factors, and labels of another space, have equal shapes.
    kinds = type(parametrization), getattr(parametrization, "factor", None), type(labels), labels.space
    return *kinds, {name: value.shape for name, value in syn.state_dict().items()}


class _StoredPixels(NamedTuple):
    """Stored pixels with one row for each slot; rows can be copied between sets of equal `form`."""

    pixels: Tensor
    form: tuple[int, ...]


def _stored_pixels(syn: SyntheticSet) -> _StoredPixels | None:
    """Return the stored pixels of a set; None for a parametrization without pixels."""
    parametrization = syn.parametrization
    if isinstance(parametrization, Pixels):
        return _StoredPixels(parametrization.images, (1, *parametrization.images.shape[1:]))
    if isinstance(parametrization, MultiFormation):
        # The tile factor is part of the form: a canvas of several tiles is no image.
        return _StoredPixels(parametrization.canvases, (parametrization.factor, *parametrization.canvases.shape[1:]))
    return None


def _pairs_by_class(target: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:
    """Return positions in two tensors of class ids that pair the n-th items of each class."""
    target_rows, source_rows = [], []
    for c in torch.unique(source).tolist():
        in_target, in_source = (torch.nonzero(classes.cpu() == c).flatten() for classes in (target, source))
        n = min(len(in_target), len(in_source))
        target_rows.append(in_target[:n])
        source_rows.append(in_source[:n])
    if not target_rows:
        return (torch.zeros(0, dtype=torch.int64),) * 2
    return torch.cat(target_rows), torch.cat(source_rows)


def _images(start: WarmStart, real: DataDescription, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return images (M, C, H, W) in the value space of `real`, and their class ids (M,) int64."""
    if isinstance(start, SyntheticSet):
        batch = start.detached(rng)
        _, owners = start.parametrization.decode(torch.arange(len(start), device=start.device), derive(rng))
        return batch.x, start.classes[owners].cpu()
    if isinstance(start, Distilled):
        names = tuple(map(clean, real.class_names))
        require(start.class_names == names, "start", f"have the classes {list(names)}", list(start.class_names))
        require(start.edge_index is None, "start", "have no edges", "a graph")
        if start.preprocess == real.preprocess.to("cpu"):
            return start.images, start.owner.cpu()
        return real.preprocess.to("cpu")(start.preprocess.inverse(start.images)), start.owner.cpu()
    images, classes = start
    require(images.ndim == 4, "start", "hold images (M, C, H, W)", tuple(images.shape))
    fits = classes.dtype == torch.int64 and tuple(classes.shape) == (len(images),)
    require(fits, "start", f"hold {len(images)} int64 class ids", (classes.dtype, tuple(classes.shape)))
    unit = images.float() / 255 if images.dtype == torch.uint8 else images
    low, high = float(unit.min()), float(unit.max())
    require(low >= 0 and high <= 1, "start", "hold images of the unit range [0, 1]", (low, high))
    return real.preprocess.to("cpu")(unit.cpu()), classes.cpu()
