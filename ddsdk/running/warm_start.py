"""Warm starts: the images, labels and rates of an earlier set as the start of a run."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from ddsdk.artefact import Described, Distilled
from ddsdk.foundation import clean, derive, require
from ddsdk.synthetic import MultiFormation, Pixels, SyntheticSet

WarmStart: TypeAlias = Distilled | SyntheticSet | tuple[Tensor, Tensor]
"""An artefact; a synthetic set in the value space of the data; or images of the unit range, (M, C, H, W), with the
class of each, (M,) int64."""


@torch.no_grad()
def warm_start_(syn: SyntheticSet, start: WarmStart, real: Described, rng: torch.Generator) -> dict[str, Any]:
    """Put the images of `start` in the place of those of `syn`, class by class, and return what was done.

    The first images of each class are taken, as many as `syn` decodes to; a class with fewer keeps its own start behind
    them. A parametrization that decodes images from other numbers is fitted to the images by its own `encode`. A
    synthetic set of the same form is copied exactly. Labels and learned rates of an artefact are taken too
    where `syn` learns such labels or such rates.

    Args:
        syn: Set at its start, no graph; it is changed in place.
        start: Earlier set of the same classes and image shape.
        real: Data with the class names and the value space of `syn`.
        rng: Generator of stochastic decoders.
    """
    require(not syn.parametrization.joint, "start", "be left out for graphs", type(start).__name__)
    if isinstance(start, SyntheticSet):
        if _loaded(syn, start):
            return {"images": len(syn), "left_out": 0}
        mine, theirs = _stored(syn), _stored(start)
        if mine is not None and theirs is not None and mine.form == theirs.form:
            rows, taken = _places(syn.classes, start.classes)
            mine.pixels[rows] = theirs.pixels[taken].to(mine.pixels)
            return {"images": len(rows), "left_out": len(start) - len(rows)}
    images, classes = _images(start, real, derive(rng, "start"))
    rule = f"hold classes of 0..{syn.num_classes - 1}"
    require(bool(((classes >= 0) & (classes < syn.num_classes)).all()), "start", rule, classes.tolist()[:5])
    slots = torch.arange(len(syn), device=syn.device)
    decoded, owners = syn.parametrization.decode(slots, derive(rng, "begin"))
    shape = tuple(decoded.shape[1:])
    require(tuple(images.shape[1:]) == shape, "start", f"hold images of shape {shape}", tuple(images.shape[1:]))
    rows, taken = _places(syn.classes[owners], classes)
    decoded = decoded.detach().clone()
    decoded[rows] = images[taken].to(decoded)
    syn.parametrization.encode(decoded)
    done: dict[str, Any] = {"images": len(rows), "left_out": len(images) - len(rows)}
    if isinstance(start, Distilled):
        done["set"] = start.content_id
        labelled = len(decoded) == len(syn) and start.label_space == syn.labels.space
        given = rows.to(syn.device), start.labels[taken].to(syn.device)
        done["labels"] = labelled and syn.labels.assign_(*given)
        done["rates"] = syn.rate is not None and syn.rate.assign_(start.learned_lr, start.learned_momentum)
    return done


def _loaded(syn: SyntheticSet, start: SyntheticSet) -> bool:
    """Copy the whole state of a set of the same form; return whether it is one."""
    if _form(syn) != _form(start) or not torch.equal(syn.classes.cpu(), start.classes.cpu()):
        return False
    syn.load_state_dict(start.state_dict())
    return True


def _form(syn: SyntheticSet) -> tuple[Any, ...]:
    """Return everything that two sets must have in common for the state of one to mean the same in the other."""
    stored, labels = syn.parametrization, syn.labels
    # Canvases of other tiles, and fixed rows of another space, have the same shapes.
    kinds = type(stored), getattr(stored, "factor", None), type(labels), labels.space
    return *kinds, {name: value.shape for name, value in syn.state_dict().items()}


class _Stored(NamedTuple):
    """Stored pixels, one row for each slot, with what they must have in common to be copied."""

    pixels: Tensor
    form: tuple[int, ...]


def _stored(syn: SyntheticSet) -> _Stored | None:
    """Return the stored pixels of a set; None for a parametrization of another kind."""
    stored = syn.parametrization
    if isinstance(stored, Pixels):
        return _Stored(stored.images, (1, *stored.images.shape[1:]))
    if isinstance(stored, MultiFormation):
        # A canvas of several tiles is no image: it fits canvases of as many tiles only.
        return _Stored(stored.canvases, (stored.factor, *stored.canvases.shape[1:]))
    return None


def _places(wanted: Tensor, given: Tensor) -> tuple[Tensor, Tensor]:
    """Return positions in `wanted` and in `given`, both class ids, that pair the n-th items of a class."""
    rows, taken = [], []
    for c in torch.unique(given).tolist():
        places, items = (torch.nonzero(ids.cpu() == c).flatten() for ids in (wanted, given))
        n = min(len(places), len(items))
        rows.append(places[:n])
        taken.append(items[:n])
    return (torch.cat(rows), torch.cat(taken)) if rows else (torch.zeros(0, dtype=torch.int64),) * 2


def _images(start: WarmStart, real: Described, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return images in the value space of `real`, (M, C, H, W), with their classes, (M,) int64."""
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
