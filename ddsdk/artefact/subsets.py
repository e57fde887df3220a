"""Parts and unions of distilled sets."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from ddsdk.artefact.distilled import Distilled
from ddsdk.foundation import require


def first_of_classes(distilled: Distilled, counts: Sequence[int]) -> Distilled:
    """Return a set with at most `counts[c]` images of class c, see `Distilled.first_of_classes`."""
    k, owner = distilled.num_classes, distilled.owner
    require(len(counts) == k, "counts", f"have {k} numbers", len(counts))
    # Number of each image among those of its class, counted from 1.
    numbers = one_hot(owner, k).cumsum(0).gather(1, owner[:, None])[:, 0]
    return selected(distilled, torch.nonzero(numbers <= torch.as_tensor(counts).to(owner)[owner]).flatten())


def selected(distilled: Distilled, index: Tensor | Sequence[int]) -> Distilled:
    """Return a set of some of the images, see `Distilled.select`."""
    images, classes = distilled.images, distilled.classes
    whole = distilled.edge_index is not None or distilled.stored_floats != images.numel()
    whole |= isinstance(distilled.learned_lr, tuple) or isinstance(distilled.learned_momentum, tuple)
    require(not whole, "distilled", "be stored as pixels, without edges and rates of single steps", distilled)
    kept = torch.as_tensor(index).to(images.device)
    inside = kept.ndim == 1 and len(kept) > 0 and bool(((kept >= 0) & (kept < len(images))).all())
    require(inside, "index", f"hold positions in 0..{len(images) - 1}", index)
    return dataclasses.replace(
        distilled,
        images=images[kept],
        labels=distilled.labels[kept],
        classes=None if classes is None else classes[kept],
        stored_floats=0,
        certificate=None,
    )


def union(first: Distilled, *others: Distilled) -> Distilled:
    """Return the union of sets with the protocol of the first one, see `Distilled.concat`."""
    if not others:
        return first
    sets = (first, *others)
    graphs = [s for s in sets if s.edge_index is not None]
    require(not graphs, "sets", "have no edges to be joined", f"{len(graphs)} that have")
    for other in others:
        for name in ("class_names", "label_space", "preprocess"):
            value = getattr(other, name)
            require(getattr(first, name) == value, name, "be the same in all sets", value)
        c, h, w = first.images.shape[1:]
        shape = tuple(other.images.shape)
        require(shape[1:] == (c, h, w), "images", f"have shape (M, {c}, {h}, {w}) in all sets", shape)
    classes = [s.classes for s in sets if s.classes is not None]
    return dataclasses.replace(
        first,
        images=torch.cat([s.images for s in sets]),
        labels=torch.cat([s.labels for s in sets]),
        learned_lr=_common_number([s.learned_lr for s in sets]),
        learned_momentum=_common_number([s.learned_momentum for s in sets]),
        classes=torch.cat(classes) if len(classes) == len(sets) else None,
        stored_floats=sum(s.stored_floats if s.packing is None else s.images.numel() for s in sets),
        provenance={"recipe": "concat", "parents": [s.content_id for s in sets]},
        certificate=None,
        packing=None,
    )


def _common_number(values: list[float | tuple[float, ...] | None]) -> float | None:
    first = values[0]
    return None if isinstance(first, tuple) or any(v != first for v in values) else first
